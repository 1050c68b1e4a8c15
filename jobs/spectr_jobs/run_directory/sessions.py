"""The sessions of a run: the events that every process writes while it works on the run, and how they are read.

Each process appends events to a file of its own, ``sessions/<start in ns>-<pid>.jsonl``, so that no two of them write
to one file. An event is an object with its ``time`` (seconds since 1970) and its kind, ``event``:

    start    the first event: plan, batch size and why it was chosen, backend, device, rank, world, host, ...
    tick     now and then: the counts so far
    mended   damaged lines were taken out of a shard
    sealed   a shard is complete
    rounds   a row that was watched: its ``id``, its number of ``tokens``, and what each of its ``rounds`` wrote
    end      the last event: the counts, and the reason why the session ended; missing after a kill

The counts of ``tick`` and ``end`` are ``seconds`` (since the session's start, which no change of a clock affects),
``tally``, ``timing`` (seconds by stage), ``plans`` (rounds by plan), ``reading`` (tokens that were read or copied) and
``plain`` (seconds of rounds beside those of plain decoding). Only this module reads and writes events.
"""

from __future__ import annotations

import dataclasses
import heapq
import itertools
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectr_jobs.records import rows
from spectr_jobs.records.rows import Row
from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.journal import Journal

START, TICK, MENDED, SEALED, ROUNDS, END = "start", "tick", "mended", "sealed", "rounds", "end"
DONE = "done"  # the reason of a session that decoded all it was to decode


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """The counts of a session at one instant.

    Attributes:
        seconds: Time since the session's start.
        tally: Counts over the rows of the session.
        timing: Seconds that the decoder spent, by stage.
        plans: Rounds of each plan, by its name.
        reading: Tokens that the target read, and those that were copied instead.
        plain: Rounds whose plain counterparts are known, their seconds, and those of plain decoding.
    """

    seconds: float = 0.0
    tally: Tally = dataclasses.field(default_factory=Tally)
    timing: Mapping[str, float] = dataclasses.field(default_factory=dict)
    plans: Mapping[str, int] = dataclasses.field(default_factory=dict)
    reading: Mapping[str, int] = dataclasses.field(default_factory=dict)
    plain: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values."""
        return {
            "seconds": round(self.seconds, 6),
            "tally": self.tally.to_json(),
            "timing": {stage: round(seconds, 6) for stage, seconds in self.timing.items()},
            "plans": dict(self.plans),
            "reading": dict(self.reading),
            "plain": {name: round(value, 6) for name, value in self.plain.items()},
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> State:
        """Return the state that ``to_json`` turned into JSON values."""
        tally = Tally.from_json(value["tally"])
        # A run may have been begun by a release that did not count these.
        since = value.get("reading", {}), value.get("plain", {})
        return State(value["seconds"], tally, value["timing"], value["plans"], *since)


@dataclasses.dataclass(frozen=True, slots=True)
class PastSession:
    """A session as its events so far describe it.

    Attributes:
        facts: The contents of the first event, its ``time`` included.
        states: The counts in its events, in their order.
        reason: The reason why it ended; None while it goes on, and if it was killed.
        watched: The rows that were watched, with what their rounds wrote.
    """

    facts: Mapping[str, Any]
    states: tuple[State, ...]
    reason: str | None
    watched: tuple[Row, ...] = ()

    @property
    def start(self) -> float:
        """When the session started, in seconds since 1970."""
        return float(self.facts["time"])

    @property
    def last(self) -> State:
        """The last counts that are known."""
        return self.states[-1] if self.states else State()


class EventLog:
    """The file to which this process appends its events.

    Args:
        folder: Folder of the events of all sessions of the run.
        facts: The contents of the first event.

    Attributes:
        earlier: Number of sessions that began before.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.earlier = len(_files(folder))
        self._journal = Journal(folder / f"{time.time_ns()}-{os.getpid()}.jsonl")
        self.write(START, facts)

    def write(self, kind: str, facts: Mapping[str, Any]) -> None:
        """Append an event."""
        self._journal.append(rows.encode({"time": round(time.time(), 3), "event": kind, **facts}))

    def end(self, state: State, reason: str) -> None:
        """Append the last event, and close the file."""
        self.write(END, state.to_json() | {"reason": reason})
        self._journal.close()


def read_sessions(folder: Path) -> Iterator[PastSession]:
    """Yield the sessions of a run in the order in which they started, except for those that were killed at once."""
    for path in _files(folder):
        if events := [*journal.rows(path)]:
            states = tuple(State.from_json(event) for event in events if "tally" in event)
            watched = tuple(event for event in events if event.get("event") == ROUNDS)
            yield PastSession(_facts(events[0]), states, events[-1].get("reason"), watched)


def read_facts(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield the contents of every session's first event, in the order in which the sessions started."""
    for path in _files(folder):
        for event in itertools.islice(journal.rows(path), 1):
            yield _facts(event)


def merged_events(folder: Path) -> Iterator[bytes]:
    """Yield the events of all sessions, sorted by time, as lines."""
    streams = [journal.entries(path) for path in _files(folder)]
    for entry in heapq.merge(*streams, key=lambda entry: float(entry.row["time"])):
        yield entry.line


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def _facts(event: Row) -> dict[str, Any]:
    return {name: value for name, value in event.items() if name != "event"}
