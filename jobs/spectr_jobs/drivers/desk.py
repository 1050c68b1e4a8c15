"""The desk of a Ray cluster: it hands shards out to actors, takes back those of lost actors, and adds up the counts."""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Sequence

from spectr_jobs.records.tally import Tally


@dataclasses.dataclass(frozen=True, slots=True)
class DeskState:
    """The state of the work at one instant.

    Attributes:
        outstanding: Number of shards that wait or that an actor has taken.
        tally: Counts over the rows of all actors, lost actors included.
        notes: Messages of the actors since the last state.
    """

    outstanding: int
    tally: Tally
    notes: tuple[str, ...]


class Desk:
    """Knows which actor has which shard.

    The desk reads no files. The actor that takes a shard sees whether it is already sealed, and skips it.

    Args:
        shards: Numbers of the shards to hand out.
    """

    def __init__(self, shards: Iterable[int]) -> None:
        self._waiting = sorted(shards)
        self._taken: dict[int, list[int]] = {}
        self._lost: set[int] = set()
        self._tallies: dict[int, Tally] = {}
        self._notes: list[str] = []
        self._reason: str | None = None

    def take(self, actor: int) -> int | None:
        """Hand the first waiting shard to an actor; return None if no shard waits, or if the actor counts as lost."""
        if not self._waiting or actor in self._lost:
            return None
        number = heapq.heappop(self._waiting)
        self._taken.setdefault(actor, []).append(number)
        return number

    def finish(self, actor: int) -> None:
        """Record that an actor has ended in order: its shards are sealed, or left for another run."""
        self._taken.pop(actor, None)

    def lose(self, actor: int) -> int:
        """Record that an actor was lost, and let the shards that it took wait for another actor.

        Returns:
            The number of these shards, those that the actor has sealed included.
        """
        self._lost.add(actor)
        numbers = self._taken.pop(actor, [])
        if self._reason is None:
            self._waiting = sorted([*self._waiting, *numbers])
        return len(numbers)

    def report(self, actor: int, tally: Tally, notes: Sequence[str]) -> str | None:
        """Receive an actor's counts and messages.

        Args:
            actor: Number of the actor; one that replaces a lost actor has a number of its own.
            tally: Counts over all rows of the actor.
            notes: New messages to the user.

        Returns:
            The reason why the actor is to stop; None if it is to go on.
        """
        self._tallies[actor] = tally
        self._notes += notes
        return self._reason

    def close(self, reason: str) -> None:
        """Hand out no more shards, and let every actor stop for a reason."""
        self._reason = reason
        self._waiting.clear()

    def state(self) -> DeskState:
        """Return the state of the work; every message is in one state only."""
        total = Tally()
        for tally in self._tallies.values():
            total.merge(tally)
        notes, self._notes = tuple(self._notes), []
        return DeskState(len(self._waiting) + sum(map(len, self._taken.values())), total, notes)
