"""The progress line on stderr: a bar on a terminal, one plain line every half minute elsewhere."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from spectr_jobs import duration
from spectr_jobs.tally import Tally

BAR_SECONDS = 0.2
LINE_SECONDS = 30.0
BAR_WIDTH = 24


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
        text = self._text(tally, seconds)
        if not self._terminal:
            say(text, self._stream)
            return
        self._stream.write(f"\r{text}\x1b[K")
        self._stream.flush()
        self._drawn = True

    def say(self, text: str) -> None:
        """Tell the user something between two drawings of the line."""
        self.clear()
        say(text, self._stream)

    def clear(self) -> None:
        """Take the bar away, so that other lines can follow."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False

    def _text(self, tally: Tally, seconds: float) -> str:
        now_done = tally.rows + tally.failed
        done = now_done + self._skipped
        share = done / self._total
        parts = [f"{done:,}/{self._total:,} rows"]
        if tally.failed:
            parts.append(f"{tally.failed:,} failed")
        parts.append(f"{tally.completion_tokens / seconds:,.0f} tokens/s" if seconds > 0 else "starting")
        if tally.block_efficiency is not None:
            parts.append(f"block efficiency {tally.block_efficiency:.2f}")
        if now_done:
            parts.append(f"{duration.shown((self._total - done) * seconds / now_done)} left")
        full = round(share * BAR_WIDTH)
        bar = "━" * full + "─" * (BAR_WIDTH - full) + " " if self._terminal else ""
        return f"{bar}{share:.0%} · " + " · ".join(parts)


def say(text: str, stream: TextIO | None = None) -> None:
    """Tell the user on stderr; stdout carries data only."""
    print(f"spectr-batch: {text}", file=stream or sys.stderr, flush=True)
