"""The desk of a cluster: it hands shards out to actors, takes them back from lost ones, and adds up what they tell."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Sequence

from spectr_jobs.records.tally import Tally


@dataclasses.dataclass(frozen=True, slots=True)
class DeskState:
    """What the desk knows.

    Attributes:
        outstanding: Shards that wait or are at an actor.
        tally: Counts over the rows of all actors, those of lost ones among them.
        notes: What actors said since the last time.
    """

    outstanding: int
    tally: Tally
    notes: tuple[str, ...]


class Desk:
    """Knows who has which shard. It reads no files: whether a shard is sealed, its taker sees."""

    def __init__(self, shards: Iterable[int]) -> None:
        """Put shards up.

        Args:
            shards: Their numbers.
        """
        self._waiting = sorted(shards)
        self._taken: dict[int, list[int]] = {}
        self._lost: set[int] = set()
        self._tallies: dict[int, Tally] = {}
        self._notes: list[str] = []
        self._reason: str | None = None

    def take(self, actor: int) -> int | None:
        """Give an actor the first shard that waits; nothing if none does, or if it is taken for lost."""
        if not self._waiting or actor in self._lost:
            return None
        number = heapq.heappop(self._waiting)
        self._taken.setdefault(actor, []).append(number)
        return number

    def finish(self, actor: int) -> None:
        """An actor has ended in order: what it took is sealed, or left for another run."""
        self._taken.pop(actor, None)

    def lose(self, actor: int) -> int:
        """An actor was lost: put up again what it took.

        Returns:
            How many shards that were; sealed ones are among them.
        """
        self._lost.add(actor)
        numbers = self._taken.pop(actor, [])
        if self._reason is None:
            self._waiting = sorted([*self._waiting, *numbers])
        return len(numbers)

    def report(self, actor: int, tally: Tally, notes: Sequence[str]) -> str | None:
        """Take an actor's counts and notes.

        Args:
            actor: Its number; an actor that replaces a lost one has a number of its own.
            tally: Counts over all its rows.
            notes: What the user should read.

        Returns:
            Why the actor is to stop, if it is.
        """
        self._tallies[actor] = tally
        self._notes += notes
        return self._reason

    def close(self, reason: str) -> None:
        """Hand nothing out any more."""
        self._reason = reason
        self._waiting.clear()

    def state(self) -> DeskState:
        """What is known, and the notes once."""
        total = Tally()
        for tally in self._tallies.values():
            total.merge(tally)
        notes, self._notes = tuple(self._notes), []
        return DeskState(len(self._waiting) + sum(map(len, self._taken.values())), total, notes)
