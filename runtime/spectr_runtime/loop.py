"""The loop of a decoder: rows are admitted, turns are taken, and rows that end are handed on."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from spectr_runtime.errors import SpectrError
from spectr_runtime.planning.choice import Chooser
from spectr_runtime.planning.company import Company
from spectr_runtime.planning.costs import Costs
from spectr_runtime.planning.planner import AutoPlanner
from spectr_runtime.planning.shrinking import ShrinkingPair
from spectr_runtime.rows.admission import Waiting
from spectr_runtime.rows.request import Outcome
from spectr_runtime.rows.row import Row
from spectr_runtime.rows.scheduler import Scheduler
from spectr_runtime.speculation.batching import Sizes
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.timing import Timing
from spectr_runtime.speculation.turn import Turn, Turns


class Loop:
    """Keeps a batch of rows full.

    Args:
        shrinking: The models, with as many rows as there is memory for.
        chooser: Chooses what rounds draft.
        turns: Takes turns.
        sizes: How large rounds are made at most.
        timing: Takes the seconds of the phases.
        keep_costs: Keeps what was learnt of costs, at the end of a call.

    Attributes:
        rounds: How many rounds took each plan.
        at_work: Makes the context of a time in which others may work, since the host only waits.
    """

    def __init__(
        self,
        shrinking: ShrinkingPair,
        chooser: Chooser,
        turns: Turns,
        sizes: Sizes,
        timing: Timing,
        keep_costs: Callable[[Costs], None],
    ) -> None:
        self.rounds: Counter[Plan] = Counter()
        self.at_work: Callable[[], AbstractContextManager[None]] = nullcontext
        self._shrinking, self._chooser, self._turns = shrinking, chooser, turns
        self._most, self._timing, self._keep_costs = sizes, timing, keep_costs
        self._scheduler = Scheduler(shrinking.rows)
        self._company = Company(self.pair.call_cost)
        self._waiting = Waiting(iter(()))

    @property
    def pair(self) -> Pair:
        """The models as they are open now."""
        return self._shrinking.pair

    @torch.inference_mode()
    def decode(
        self, made: Iterator[Row | Outcome], *, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Row | Outcome]:
        """Decode rows; admit the next one whenever there is room, and yield every row when it ends.

        Args:
            made: The rows, and outcomes of requests that end at once.
            stopped: Says whether to decode only the rows that are in the batch.
        """
        if self._scheduler.batch or self._turns.unread:  # the call before did not end; its caches may not be whole
            self._turns.forget()
            self._shrinking.restart()
        waiting = self._waiting = Waiting(made, stopped)
        self._scheduler = Scheduler(self._shrinking.rows)
        try:
            yield from self._turn_by_turn()
        finally:
            if self._waiting is waiting:
                self._let_go()

    def _turn_by_turn(self) -> Iterator[Row | Outcome]:
        """Take turns until no row is left and none waits; yield every row when it ends."""
        while True:
            yield from self._fill()
            if not self._scheduler.batch:
                self._end()
                return
            if self._outgrown():
                continue
            self.pair.surround(self.at_work)
            ended: list[Row | Outcome] | None = None
            turn = None
            try:
                ended = [*self._score_prompts()]
                turn = None if ended else self._turn()
            except (SpectrError, RuntimeError, MemoryError) as error:
                self._shrinking.halve(error)
                ended = None
            if ended is None:  # by now the error is gone, and what its call had in memory
                self._start_over()
                continue
            if turn is not None:
                with self._timing.measure("host"):
                    ended = list(self._advance(turn))
            yield from ended

    def _fill(self) -> Iterator[Row | Outcome]:
        """Admit rows while there is room, and yield the outcomes of requests that end at once.

        Rows that are admitted together are put in the order of their lengths, since neighbours of about the same length
        are read together.
        """
        room, admitted = self._scheduler.room, list[Row]()
        if room and self._scheduler.batch and not self._company.enough(room, self._shrinking.rows):
            return
        with self._timing.measure("host"):  # which is waited for
            found = list(self._waiting.take(room))
        for one in found:
            if isinstance(one, Row):
                admitted.append(one)
            else:
                yield one
        for row in sorted(admitted, key=lambda row: row.length):
            index = self._scheduler.admit(row)
            if self._turns.unread:  # it may leave there what is not finite, of a row that has ended
                self.pair.clear(index)

    def _end(self) -> None:
        """Read what was decoded last, for nobody, and keep what was learnt."""
        turn = self._turns.land(self.pair)
        if turn is not None:
            list(self._advance(turn))  # none of its rows is there any more
        if isinstance(self._chooser.planner, AutoPlanner):
            self._keep_costs(self._chooser.planner.costs)

    def _let_go(self) -> None:
        """Keep nothing of a call that has ended.

        What makes its rows may hold the decoder, which would hold itself then, and its models with it.
        """
        self._waiting = Waiting(iter(()))
        self._shrinking.leave()

    def _close_ranks(self) -> None:
        """Move rows to lower indices: a round costs as much as its last index says.

        What lies behind the last one keeps no slots.
        """
        while moved := self._scheduler.close_gap():
            row, source, target = moved
            self.pair.move(source, target, row.length)

    def _score_prompts(self) -> list[Outcome]:
        """Score the prompts of rows that want it, and release the rows that end with that."""
        if not any(row.lacks_scores for row in self._scheduler.batch if row is not None):
            return []
        with self._timing.measure("prefill"):
            failed = self.pair.reader.score_prompts(self._scheduler.batch)
        ended: list[Outcome] = []
        for index, row in enumerate(self._scheduler.batch):
            if row is None:
                continue
            if index in failed:
                self.pair.clear(index)
            outcome = row.not_finite() if index in failed else row.finish_unwritten()
            if outcome is not None:
                ended.append(outcome)
                self._scheduler.release(index)
        return ended

    def _turn(self) -> Turn | None:
        """Issue a turn, and return the one that is read now, if there is one.

        Before rows are moved, and before something is drafted that the host must know all texts for, the turn that is
        not read yet is read, and what comes next is seen in its light.
        """
        batch, turns = self._scheduler.batch, self._turns
        if self._waiting.ended and None in batch and self._most.call_tokens is None:  # nobody waits for the free row
            if turns.unread:
                return turns.land(self.pair)
            self._close_ranks()
            batch = self._scheduler.batch
        self.pair.forget(len(batch))
        choice = self._chooser.choose(batch, self._sizes.rows(len(batch)), current=not turns.unread)
        if choice is None:
            return turns.land(self.pair)
        if turns.must_land(choice.plan, choice.offers, self.pair):
            self._chooser.put_off()
            return turns.land(self.pair)
        return turns.issue(*choice, self.pair, batch, self._sizes)

    @property
    def _sizes(self) -> Sizes:
        """How large rounds are made now; memory may have made the batch smaller."""
        longest = min(self.pair.longest, self._most.longest)
        return dataclasses.replace(self._most, most_rows=self._shrinking.rows, longest=longest)

    def _outgrown(self) -> bool:
        """Open larger engines if a text has outgrown the caches, and return whether that was so."""
        growth = self._turns.growth
        longest = max(min(row.length + growth, row.limit) for row in self._scheduler.batch if row is not None)
        if longest <= self.pair.longest:
            return False
        self._turns.forget()  # the memory that these engines have is needed
        self._shrinking.outgrow(longest)
        self._start_over()
        return True

    def _start_over(self) -> None:
        """Evict every row from the caches, to go on from what it wrote, and make them as large as the batch is now."""
        for row in filter(None, self._scheduler.batch):
            self._waiting.evict(row)
        self._turns.forget()
        self._shrinking.restart()
        self._scheduler = Scheduler(self._shrinking.rows)

    def _advance(self, turn: Turn) -> Iterator[Row | Outcome]:
        """Give each row that took part its tokens, release the rows that end, and yield them."""
        wrote, ended = turn.wrote, 0
        served = any(row is not None and self._scheduler.at(index) is row for index, row in enumerate(turn.rows))
        self.rounds[turn.plan] += served
        for index, row in enumerate(turn.rows):
            if row is None:
                continue
            present = self._scheduler.at(index) is row  # a row may have ended in the turn before
            if not wrote.sound[index]:
                self._clear(index, row, behind=index in turn.behind)
            if not present or index in turn.behind:
                continue
            if wrote.sound[index]:
                accepted = wrote.accepted[index]
                drafted = self._chooser.drafted(turn, index, row, accepted)
                tokens = wrote.tokens[index][: accepted + 1]
                if not row.extend(tokens, drafted, wrote.logprobs.get(index, ())):
                    continue
                self._chooser.finished(row)
                yield row
            else:
                yield row.not_finite()
            self._scheduler.release(index)
            ended += 1
        self._company.observe(turn.seconds, ended, turn.read)
        self._chooser.observe(turn)

    def _clear(self, index: int, row: Row, *, behind: bool) -> None:
        """Clear what is not finite of a row of the caches.

        Args:
            index: The index of the row.
            row: The row that was decoded there. If another one took its place meanwhile, that was cleared by then.
            behind: Whether it took no part, and goes on from what it holds. The next turn has cleared the rest already.
        """
        present = self._scheduler.at(index)
        if present is None or (present is row and not behind):
            self.pair.clear(index)
        elif present is row and not self._turns.unread:
            self.pair.clear(index, row.cached)
