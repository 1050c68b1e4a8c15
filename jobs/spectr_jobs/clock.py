"""Durations and dates: parsed as schedulers and people write them, and formatted for people."""

from __future__ import annotations

import datetime
import re

_UNITS = re.compile(r"(?:(?P<d>\d+)d)?(?:(?P<h>\d+)h)?(?:(?P<m>\d+)m)?(?:(?P<s>\d+(?:\.\d+)?)s?)?")
_SLURM = re.compile(r"(?:(?P<d>\d+)-)?(?P<h>\d+):(?P<m>\d\d):(?P<s>\d\d)")
_SECONDS = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
ALLOWED = "seconds, or a time like 15m, 3h50m or 1-02:30:00"


def parse_duration(text: str) -> float:
    """Return a duration in seconds. It is written as ``90``, ``90s``, ``15m``, ``3h50m``, or Slurm's ``1-02:30:00``.

    Raises:
        ValueError: The text is not a duration.
    """
    found = _UNITS.fullmatch(text) or _SLURM.fullmatch(text)
    if not text or found is None:
        raise ValueError(f"got {text!r}, allowed {ALLOWED}")
    return sum(float(value) * _SECONDS[unit] for unit, value in found.groupdict().items() if value)


def show_duration(seconds: float) -> str:
    """Return a duration as text: ``4.2 s``, ``3 min 20 s``, ``2 h 05 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60:,} h {minutes % 60:02d} min"


def show_date(seconds: float) -> str:
    """Return an instant, given in seconds since 1970, as a date in UTC: ``2026-11-28T18:16:23+00:00``."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="seconds")
