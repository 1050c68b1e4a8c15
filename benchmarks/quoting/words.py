"""What the topics share: tables, numbers, and where something was measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table."""
    lines = [f"| {' | '.join(row)} |" for row in (heads, *rows)]
    return "\n".join([lines[0], "|---" * len(heads) + "|", *lines[1:]])


def numeral(number: int) -> str:
    """Return a count in words up to ten, in digits beyond."""
    return NUMBERS[number] if number < len(NUMBERS) else f"{number:,}"


def counted(number: int, noun: str) -> str:
    """Return "one row" or "8 rows"."""
    return f"one {noun}" if number == 1 else f"{number:,} {noun}s"


def listed(names: Iterable[str]) -> str:
    """Return "a", "a and b" or "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def span(values: Iterable[float], form: str = ".2f") -> str:
    """Return "from least to most", or the one number that all come to when they are written so."""
    values = list(values)
    least, most = f"{min(values):{form}}", f"{max(values):{form}}"
    return least if least == most else f"{least} to {most}"


def ratio(median: float, least: float, most: float) -> str:
    """Return a ratio with its range."""
    return f"{median:.2f} ({least:.2f} to {most:.2f})"


def percent(share: float, form: str = ".0f") -> str:
    """Return a share in per cent."""
    return f"{100 * share:{form}} %"


def measured(head: Mapping[str, Any], *packages: str) -> str:
    """Return the date and the machine of a result's head, and the versions of these packages."""
    vectors = "AVX-512" if any(name.startswith("avx512") for name in head.get("vectors", ())) else "AVX2"
    wide = f" with {vectors}" if head.get("vectors") else ""
    versions = [f"{name} {head['versions'][name]}" for name in packages]
    tools = f", with Python {head['python']}, {', '.join(versions)}" if versions else ""
    return f"on {head['date']} on {numeral(head['cores'])} cores of {head['processor']}{wide}{tools}"
