"""A session: one process at work on a run. It counts rows, writes events, and updates the progress line."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from spectr_jobs.records import rows
from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory.sessions import MENDED, ROUNDS, SEALED, TICK, EventLog, State
from spectr_jobs.run_directory.shard import Shard
from spectr_jobs.work.models import RunDecoder
from spectr_jobs.work.watcher import Watcher
from spectr_runtime.rows.request import Outcome

# The time between two ticks grows with the session, to the session's age / TICKS, within the two bounds (in seconds).
# So the charts of a short run have enough points, and the events of a long run stay few.
TICKS = 30
FASTEST, SLOWEST = 0.5, 10.0


class Display(Protocol):
    """What shows the counts of a session: ``Progress`` in the process that the user started, or an actor's display."""

    def skip(self, records: int) -> None:
        """Count records whose rows were written before the session."""

    def show(self, tally: Tally, seconds: float) -> None:
        """Show the counts after so many seconds of decoding, unless the last time is too recent."""

    def say(self, text: str) -> None:
        """Show a message to the user."""

    def clear(self) -> None:
        """Make room for other lines; no counts follow."""


class Session:
    """The counts, the clock and the events of this process.

    Attributes:
        tally: Counts over the rows of this session.
        watcher: Watches a few of them.
    """

    def __init__(
        self, folder: Path, facts: Mapping[str, Any], display: Display, decoder: RunDecoder, echo: BinaryIO | None
    ) -> None:
        """Start the clock, and write the first event.

        Args:
            folder: Folder of the events of all sessions of the run.
            facts: The contents of the first event: setup, rank, machine.
            display: Shows the counts.
            decoder: The decoder, whose seconds by stage, rounds by plan and tokens read are written into the events.
            echo: A stream that also receives every row; None for no stream.
        """
        self.tally = Tally()
        self._display = display
        self._decoder = decoder
        self._echo = echo
        self._started = time.monotonic()
        self._due = FASTEST
        self._events = EventLog(folder, facts)
        self.watcher = Watcher(self._events.earlier, decoder.piece)

    @property
    def seconds(self) -> float:
        """Seconds since the session started."""
        return time.monotonic() - self._started

    def opened(self, shard: Shard) -> None:
        """Count the rows that earlier sessions left in a shard that was opened, and report its damaged lines."""
        self._display.skip(shard.tally.rows + shard.tally.failed)
        if shard.damaged:
            self._display.say(f"{shard.folder}: {shard.damaged} damaged lines; their records are decoded again")
            self._events.write(MENDED, {"shard": shard.folder.name, "lines": shard.damaged})

    def row(self, row: rows.Row, line: bytes) -> None:
        """Count a row that was written, and write a tick if it is time."""
        self.tally.add(row)
        if self._echo is not None:
            self._echo.write(line)
            self._echo.flush()
        self._display.show(self.tally, self.seconds)
        if self.seconds >= self._due:
            self._due = self.seconds + min(max(self.seconds / TICKS, FASTEST), SLOWEST)
            self._events.write(TICK, self._state().to_json())

    def ended(self, outcome: Outcome) -> None:
        """Write the rounds of a completion that was watched."""
        if (rounds := self.watcher.ended(outcome)) is not None:
            self._events.write(ROUNDS, rounds)

    def sealed(self, shard: Shard) -> None:
        """Write the event of a shard that was sealed."""
        self._events.write(SEALED, {"shard": shard.folder.name, "records": len(shard.order)})

    def close(self, reason: str) -> None:
        """Write the last event, which says why the session ends."""
        self._display.clear()
        self._events.end(self._state(), reason)

    def _state(self) -> State:
        plans = {str(plan): rounds for plan, rounds in dict(self._decoder.rounds).items()}
        timing, reading = dataclasses.asdict(self._decoder.timing), dataclasses.asdict(self._decoder.reading)
        return State(self.seconds, self.tally, timing, plans, reading, dataclasses.asdict(self._decoder.plain))
