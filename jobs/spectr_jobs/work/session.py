"""A session: one process at work on a run. It counts rows, writes events, and tells the progress line."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from spectr_jobs.records import rows
from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory.sessions import MENDED, SEALED, TICK, EventLog, State
from spectr_jobs.run_directory.shard import Shard
from spectr_jobs.work.models import RunDecoder

TICKS = 30  # per so far run time, so that the pictures of a short run show something too
FASTEST, SLOWEST = 0.5, 10.0  # seconds between two ticks, at least and at most


class Display(Protocol):
    """Where a session shows how far it is: ``Progress`` in the process that the user started."""

    def skip(self, records: int) -> None:
        """Count records that were done before the session."""

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
            facts: What the first event says: setup, rank, machine.
            progress: The progress line.
            decoder: Its stage times and its rounds of each plan go into the events.
            echo: Where every row goes beside its shard, if anywhere.
        """
        self.tally = Tally()
        self._progress = progress
        self._decoder = decoder
        self._echo = echo
        self._started = time.monotonic()
        self._due = FASTEST
        self._events = EventLog(folder, facts)

    @property
    def seconds(self) -> float:
        """Seconds since the session started."""
        return time.monotonic() - self._started

    def opened(self, shard: Shard) -> None:
        """Take note of a shard that was opened, and of what an earlier session left in it."""
        self._progress.skip(shard.tally.rows + shard.tally.failed)
        if shard.damaged:
            self._progress.say(f"{shard.folder}: {shard.damaged} damaged lines; their records are decoded again")
            self._events.write(MENDED, {"shard": shard.folder.name, "lines": shard.damaged})

    def row(self, row: rows.Row, line: bytes) -> None:
        """Count a row that was written."""
        self.tally.add(row)
        if self._echo is not None:
            self._echo.write(line)
            self._echo.flush()
        self._progress.show(self.tally, self.seconds)
        if self.seconds >= self._due:
            self._due = self.seconds + min(max(self.seconds / TICKS, FASTEST), SLOWEST)
            self._events.write(TICK, self._state().to_json())

    def sealed(self, shard: Shard) -> None:
        """Take note of a shard that is complete."""
        self._events.write(SEALED, {"shard": shard.folder.name, "records": len(shard.order)})

    def close(self, reason: str) -> None:
        """Write the last event, which says why the session ends."""
        self._progress.clear()
        self._events.end(self._state(), reason)

    def _state(self) -> State:
        plans = {str(plan): rounds for plan, rounds in self._decoder.rounds.items()}
        return State(self.seconds, self.tally, dataclasses.asdict(self._decoder.timing), plans)
