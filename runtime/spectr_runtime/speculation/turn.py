"""One turn of the batch: what its rows lack is read, and those that lack nothing then take part in a round.

A turn may be issued before the one before has been read. The device then goes on from what it knows itself, and the
host is a round behind: a row that ended is decoded once more, for nobody.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from spectr_runtime.reading.counts import Reading
from spectr_runtime.rows.row import Row
from spectr_runtime.speculation.batching import Batching, Carried, Sizes
from spectr_runtime.speculation.launch import Flight, Landed, Launcher, open_recorder
from spectr_runtime.speculation.offers import Offers
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.timing import ROUND, Spent, Timing


class Turn(NamedTuple):
    """What a turn did.

    Attributes:
        plan: The plan of its round.
        offers: What was given to the rows.
        rows: The rows by their index in the batch; None for a free one.
        behind: The indices of rows that took no part in it, since they are still read.
        lacking: For each row how many of its last tokens the cache of the draft lacks now; None if it was not fed.
        wrote: What it wrote.
        spent: How long the round took.
        read: What was read before it.
        seconds: How long both took.
        telling: Whether the round took what others of its shape will: the first ones take longer where they are to be
            replayed, and on a GPU the time of a round holds that of what was read before it.
    """

    plan: Plan
    offers: Offers
    rows: Sequence[Row | None]
    behind: Collection[int]
    lacking: Sequence[int | None]
    wrote: Landed
    spent: Spent
    read: Reading
    seconds: float
    telling: bool


class Mark(NamedTuple):
    """A moment.

    Attributes:
        seconds: Its time, by ``time.perf_counter``.
        beside: What had been spent by then on all that is not a phase of a round.
    """

    seconds: float
    beside: float

    @staticmethod
    def now(timing: Timing) -> Mark:
        """Return the present moment."""
        return Mark(time.perf_counter(), timing.beside)


@dataclasses.dataclass(frozen=True, slots=True)
class Issued:
    """A turn that was issued.

    Attributes:
        plan: The plan of its round.
        offers: What is given to the rows.
        rows: The rows by their index in the batch; None for a free one.
        behind: The indices of rows that take no part.
        flight: The round.
        read: What was read before it.
        begun: When reading began.
        launched: When the round was issued; of one that had to wait for the turn before it, when that was read, so
            that it costs what the host did meanwhile.
        telling: Whether it takes what later rounds of its shape will.
    """

    plan: Plan
    offers: Offers
    rows: Sequence[Row | None]
    behind: Collection[int]
    flight: Flight
    read: Reading
    begun: Mark
    launched: Mark
    telling: bool

    def land(self, waits: Callable[[], AbstractContextManager[None]], timing: Timing, before: Mark) -> Turn:
        """Wait for the round, and return what the turn did.

        Args:
            waits: Makes the context of the wait.
            timing: Takes the seconds of the phases of a round that was replayed.
            before: When the turn before this one was done; the device began with this one then, if that was later.
        """
        with waits():
            wrote = self.flight.land()
        now, start, phases = Mark.now(timing), max(self.launched, before), self.flight.phases
        total = now.seconds - start.seconds
        # What the host did meanwhile has been counted.
        scale = max(total - (now.beside - start.beside), 0.0) if self.flight.replayed else 1.0
        for phase in ROUND:
            timing.add(phase, scale * getattr(phases, phase))
        return Turn(
            plan=self.plan,
            offers=self.offers,
            rows=self.rows,
            behind=self.behind,
            lacking=[self.flight.source.lacking(count) for count in wrote.accepted],
            wrote=wrote,
            spent=Spent(total, scale * phases.draft, scale * phases.verify),
            read=self.read,
            seconds=now.seconds - max(self.begun, before).seconds,
            telling=self.telling,
        )


class Turns:
    """Issues turns over a pair of models, and reads them, at most one behind.

    Args:
        launcher: Issues their rounds.
        batching: Makes what these are told.
        timing: Takes the seconds of the phases.
        ahead: Whether a turn is issued before the one before it is read.

    Attributes:
        ahead: The same.
    """

    def __init__(self, launcher: Launcher, batching: Batching, timing: Timing, *, ahead: bool) -> None:
        self._launcher, self._batching, self._timing = launcher, batching, timing
        self.ahead = ahead
        self._issued: Issued | None = None
        self._done = Mark(0.0, 0.0)  # when the last turn was read
        self._waits = False  # whether the next one has to wait for that

    @property
    def unread(self) -> bool:
        """Whether a turn was issued that is not read yet."""
        return self._issued is not None

    @property
    def growth(self) -> int:
        """How many tokens a row may have written that are not read yet."""
        return 0 if self._issued is None else self._issued.plan.length + 1

    def must_land(self, plan: Plan, offers: Offers, pair: Pair) -> bool:
        """Return whether what is not read yet must be, before a turn with this plan can be issued.

        Drafts of the host follow from whole texts, and so does that there are none, where the text depends on it. So
        does what a draft has to read of them, where it was not fed in the last round; a head has to, in time, whatever
        the next round drafts from.
        """
        if self._issued is None:
            return False
        looked_up = any(offer is not None and offer.paths for offer in offers) or not (plan.races or plan.feeds_draft)
        lags = (plan.feeds_draft or pair.head is not None) and not self._issued.plan.feeds_draft
        return looked_up or lags

    def issue(self, plan: Plan, offers: Offers, pair: Pair, batch: Sequence[Row | None], sizes: Sizes) -> Turn | None:
        """Bring the caches up to the rows' texts, and issue a round.

        Args:
            plan: The plan of the round.
            offers: What is given to the rows.
            pair: The models.
            batch: The rows by their index in the caches, at least one; None for a free one.
            sizes: How large the round is made.

        Returns:
            The turn that is read now: this one, or if turns are issued ahead, the one before it if it is not read.
        """
        begun, before = Mark.now(self._timing), dataclasses.replace(pair.reader.counts)
        with self._timing.measure("prefill"):
            self._clear(pair, batch)
            behind = pair.reader.catch_up(plan.feeds_draft, batch)
        with self._timing.measure("host"):
            carried = Carried(self._launcher.carried(batch), self.growth)
            shape, parcel = self._batching.pack(batch, behind, plan, offers, sizes, carried)
        launched = self._done if self._waits else Mark.now(self._timing)
        self._waits = False
        flight = self._launcher.launch(shape, parcel, batch, behind, pair)
        read = pair.reader.counts.since(before)
        # The time of a round that runs while the host goes on holds that of what was read before it.
        telling = not self._launcher.records or (flight.replayed and not read.calls)
        issued = Issued(plan, offers, [*batch], behind, flight, read, begun, launched, telling)
        if not self.ahead:
            return self._read(issued, pair)
        last, self._issued = self._issued, issued
        return None if last is None else self._read(last, pair)

    def _clear(self, pair: Pair, batch: Sequence[Row | None]) -> None:
        """Clear what a turn that is not read yet may leave behind rows that are read on."""
        if self._issued is None:
            return
        for index in self._issued.behind:
            row = batch[index] if index < len(batch) else None
            if row is not None and row is self._issued.rows[index]:
                pair.clear(index, row.cached)

    def land(self, pair: Pair) -> Turn | None:
        """Read the turn that is not read yet, if there is one, before another one is issued."""
        last, self._issued = self._issued, None
        if last is None:
            return None
        self._waits = True
        return self._read(last, pair)

    def _read(self, issued: Issued, pair: Pair) -> Turn:
        turn = issued.land(pair.waits, self._timing, self._done)
        self._done = Mark.now(self._timing)
        return turn

    def forget(self) -> None:
        """Give up what is not read, and what the device knows of rows: the caches are empty."""
        self._issued, self._waits = None, False
        self._launcher.forget()


def open_turns(pair: Pair, rows: int, vocabulary: int, timing: Timing, replays: bool | None) -> Turns:
    """Return what takes turns: recorded and ahead of the host where that is possible.

    Args:
        pair: The models.
        rows: Number of rows of the batch.
        vocabulary: Number of tokens of the vocabulary.
        timing: Takes the seconds of the phases.
        replays: As for ``open_recorder``.

    Raises:
        UsageError: As for ``open_recorder``.
    """
    recorder = open_recorder(pair.device, pair, replays)
    launcher = Launcher(rows, vocabulary, pair.device, recorder)
    return Turns(launcher, Batching(vocabulary, headed=pair.head is not None), timing, ahead=recorder is not None)
