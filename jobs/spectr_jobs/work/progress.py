"""The progress line on stderr: a bar on a terminal, one plain line every half minute in a log."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import TextIO

from tqdm import tqdm

from spectr_jobs.clock import show_duration
from spectr_jobs.console import say
from spectr_jobs.records.tally import Tally

BAR_SECONDS = 0.2  # between two drawings of the bar
LINE_SECONDS = 30.0  # between two lines of a log
BAR_WIDTH = 20
BAR_CHARACTERS = "─━"
WIDE = 120  # columns of a terminal that does not report its width
# tqdm hides the bar on a terminal that reports no size, as in some containers. What fits is decided here instead.
UNLIMITED = {"ncols": 1000, "nrows": 1000}


class Progress:
    """The progress line of a run.

    Attributes:
        total: Number of records of this process's shards.

    Args:
        stream: The stream of the line; a terminal shows the bar.
        total: As the attribute.
    """

    def __init__(self, stream: TextIO, total: int) -> None:
        self._stream = stream
        self.total = total
        self._skipped = 0
        self._line_due = time.monotonic() + LINE_SECONDS
        self._bar = tqdm(
            total=total,
            file=stream,
            disable=not stream.isatty(),
            leave=False,
            ascii=BAR_CHARACTERS,
            bar_format=f"{{bar:{BAR_WIDTH}}} {{desc}}",
            delay=BAR_SECONDS,
            mininterval=BAR_SECONDS,
            miniters=1,
            **UNLIMITED,
        )

    def extend(self, records: int) -> None:
        """Count more records that this process decodes."""
        self.total += records
        self._bar.total = self.total

    def skip(self, records: int) -> None:
        """Count records whose rows were written before the session."""
        self._skipped += records

    def show(self, tally: Tally, seconds: float) -> None:
        """Show the counts after so many seconds of decoding, unless the last drawing is too recent."""
        if not self._bar.disable:
            room = _columns(self._stream) - BAR_WIDTH - 2
            self._bar.set_description_str(_fitted(self._parts(tally, seconds), room), refresh=False)
            self._bar.update(self._done(tally) - self._bar.n)
        elif time.monotonic() >= self._line_due:
            self._line_due = time.monotonic() + LINE_SECONDS
            say(" · ".join(self._parts(tally, seconds)), self._stream)

    def say(self, text: str) -> None:
        """Show a message to the user between two drawings of the line."""
        say(text, self._stream)

    def clear(self) -> None:
        """Remove the bar, so that other lines can follow."""
        self._bar.close()

    def _done(self, tally: Tally) -> int:
        return tally.rows + tally.failed + self._skipped

    def _parts(self, tally: Tally, seconds: float) -> list[str]:
        """Return the parts of the line, the most important first."""
        done, now_done = self._done(tally), tally.rows + tally.failed
        parts = [f"{done / self.total:.0%}", f"{done:,}/{self.total:,} rows"]
        if not now_done or not seconds:
            return [*parts, "starting"]
        if tally.failed:
            parts.append(f"{tally.failed:,} failed")
        parts.append(f"{show_duration((self.total - done) * seconds / now_done)} left")
        parts.append(f"{tally.completion_tokens / seconds:,.0f} tokens/s")
        if tally.block_efficiency is not None:
            parts.append(f"block efficiency {tally.block_efficiency:.2f}")
        return parts


def _columns(stream: TextIO) -> int:
    """Return the width of the terminal. A longer line would wrap, and the next drawing could not cover it."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or WIDE
    except (OSError, ValueError):
        return WIDE


def _fitted(parts: Sequence[str], room: int) -> str:
    """Return as many of the parts, in their order, as there is room for."""
    text = parts[0]
    for part in parts[1:]:
        if len(text) + 3 + len(part) > room:
            break
        text += f" · {part}"
    return text
