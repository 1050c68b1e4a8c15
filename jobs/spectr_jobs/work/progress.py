"""The progress line on stderr: a bar on a terminal, one plain line every half minute elsewhere."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from spectr_jobs import duration
from spectr_jobs.records.tally import Tally

BAR_SECONDS = 0.2
LINE_SECONDS = 30.0
BAR_WIDTH = 20
WIDE = 120
CLEAR = "\r\x1b[K"


class Progress:
    """Shows how far a run is."""

    def __init__(self, stream: TextIO, total: int) -> None:
        """Prepare the line.

        Args:
            stream: Where it goes; a terminal gets the bar.
            total: Records in all.
        """
        self._stream = stream
        self._total = total
        self._skipped = 0
        self._terminal = stream.isatty()
        self._drawn = False
        self._due = time.monotonic() + (BAR_SECONDS if self._terminal else LINE_SECONDS)

    def skip(self, records: int) -> None:
        """Count records that were done before."""
        self._skipped += records

    def show(self, tally: Tally, seconds: float) -> None:
        """Draw the line anew if it is time."""
        now = time.monotonic()
        if now < self._due:
            return
        self._due = now + (BAR_SECONDS if self._terminal else LINE_SECONDS)
        parts = self._parts(tally, seconds)
        if not self._terminal:
            say(" · ".join(parts), self._stream)
            return
        self._stream.write(f"\r{self._bar(tally)} {_fitted(parts, _columns(self._stream) - BAR_WIDTH - 2)}\x1b[K")
        self._stream.flush()
        self._drawn = True

    def say(self, text: str) -> None:
        """Tell the user something between two drawings of the line."""
        self.clear()
        say(text, self._stream)

    def clear(self) -> None:
        """Take the bar away, so that other lines can follow."""
        if self._drawn:
            self._stream.write(CLEAR)
            self._stream.flush()
            self._drawn = False

    def _done(self, tally: Tally) -> int:
        return tally.rows + tally.failed + self._skipped

    def _bar(self, tally: Tally) -> str:
        full = round(self._done(tally) / self._total * BAR_WIDTH)
        return "━" * full + "─" * (BAR_WIDTH - full)

    def _parts(self, tally: Tally, seconds: float) -> list[str]:
        """What is known, the most wanted first."""
        done, now_done = self._done(tally), tally.rows + tally.failed
        parts = [f"{done / self._total:.0%}", f"{done:,}/{self._total:,} rows"]
        if not now_done or not seconds:
            return [*parts, "starting"]
        if tally.failed:
            parts.append(f"{tally.failed:,} failed")
        parts.append(f"{duration.shown((self._total - done) * seconds / now_done)} left")
        parts.append(f"{tally.completion_tokens / seconds:,.0f} tokens/s")
        if tally.block_efficiency is not None:
            parts.append(f"block efficiency {tally.block_efficiency:.2f}")
        return parts


def _columns(stream: TextIO) -> int:
    """Width of the terminal; a line that is longer than it could not be drawn over."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDE
    except (OSError, ValueError):
        return WIDE


def _fitted(parts: list[str], room: int) -> str:
    """As many of the parts as there is room for."""
    text = parts[0]
    for part in parts[1:]:
        if len(text) + 3 + len(part) > room:
            break
        text += f" · {part}"
    return text


def say(text: str, stream: TextIO | None = None) -> None:
    """Tell the user on stderr; stdout carries data only. On a terminal the line takes the place of a bar."""
    stream = stream or sys.stderr
    print(f"{CLEAR if stream.isatty() else ''}spectr-batch: {text}", file=stream, flush=True)


class Notes(logging.Handler):
    """Tells the user what the runtime logs, for instance that a batch was halved."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell one message."""
        say(record.getMessage())


@contextlib.contextmanager
def noted() -> Iterator[None]:
    """While the block runs, what the runtime logs is told."""
    log, notes = logging.getLogger("spectr_runtime"), Notes()
    log.addHandler(notes)
    try:
        yield
    finally:
        log.removeHandler(notes)
