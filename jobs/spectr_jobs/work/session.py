"""A session: one process at work on a run. It counts, writes events, and tells the progress line."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from spectr_jobs.records import rows
from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory.journal import Journal
from spectr_jobs.run_directory.shard import Shard
from spectr_jobs.work.setup import RunDecoder

TICKS = 30  # per so far run time, so that the pictures of a short run show something too
FASTEST, SLOWEST = 0.5, 10.0  # seconds between two


class Display(Protocol):
    """Where a session shows how far it is; ``progress`` in the process that the user started."""

    def skip(self, records: int) -> None:
        """Count records that were done before."""

    def show(self, tally: Tally, seconds: float) -> None:
        """Show the counts, if it is time."""

    def say(self, text: str) -> None:
        """Tell the user something."""

    def clear(self) -> None:
        """Make room for other lines; no counts follow."""


class Session:
    """The counts, the clock and the events of this process.

    Attributes:
        tally: Counts over the rows of this session.
    """

    def __init__(
        self, folder: Path, facts: Mapping[str, Any], progress: Display, decoder: RunDecoder, echo: BinaryIO | None
    ) -> None:
        """Start the clock.

        Args:
            folder: Where the events of every process go.
            facts: What the first event says: plan, batch size, backend, machine.
            progress: The progress line.
            decoder: Keeps its stage times and its rounds of each plan up to date.
            echo: Where every row goes beside its shard, if anywhere.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.tally = Tally()
        self._progress = progress
        self._decoder = decoder
        self._echo = echo
        self._started = time.monotonic()
        self._due = FASTEST
        self._events = Journal(folder / f"{time.time_ns()}-{os.getpid()}.jsonl")
        self._write("start", facts)

    @property
    def seconds(self) -> float:
        """Seconds since the session started."""
        return time.monotonic() - self._started

    def row(self, row: rows.Row, line: bytes) -> None:
        """Count a row that was written."""
        self.tally.add(row)
        if self._echo is not None:
            self._echo.write(line)
            self._echo.flush()
        self._progress.show(self.tally, self.seconds)
        if self.seconds >= self._due:
            self._due = self.seconds + min(max(self.seconds / TICKS, FASTEST), SLOWEST)
            self._write("tick", self._state())

    def found(self, shard: Shard) -> None:
        """Take note of a shard that was opened, and of what an earlier session left in it."""
        self._progress.skip(shard.tally.rows + shard.tally.failed)
        if shard.damaged:
            self._progress.say(f"{shard.folder}: {shard.damaged} damaged lines; their records are decoded again")
            self.event("mended", shard=shard.folder.name, lines=shard.damaged)

    def event(self, kind: str, **facts: Any) -> None:
        """Write an event."""
        self._write(kind, facts)

    def close(self, reason: str) -> None:
        """Write the last event: how the session ended."""
        self._progress.clear()
        self._write("end", self._state() | {"reason": reason})
        self._events.close()

    def _state(self) -> dict[str, Any]:
        timing = {stage: round(seconds, 6) for stage, seconds in dataclasses.asdict(self._decoder.timing).items()}
        plans = {str(plan): rounds for plan, rounds in self._decoder.rounds.items()}
        return {"seconds": round(self.seconds, 6), "tally": self.tally.to_json(), "timing": timing, "plans": plans}

    def _write(self, kind: str, facts: Mapping[str, Any]) -> None:
        self._events.append(rows.encode({"time": round(time.time(), 3), "event": kind, **facts}))
