"""The decoder: takes requests, keeps a batch of rows full, and yields completions."""

from __future__ import annotations

import datetime
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

from spectr_runtime.backends import Backend
from spectr_runtime.bundle import Bundle
from spectr_runtime.errors import SpectrError, UsageError
from spectr_runtime.overlap import Overlap
from spectr_runtime.planning.calibration import keep_costs, open_planner
from spectr_runtime.planning.choice import Chooser, open_corpus, open_texts
from spectr_runtime.planning.company import Company
from spectr_runtime.planning.planner import AutoPlanner, menu_of
from spectr_runtime.planning.shrinking import ShrinkingPair
from spectr_runtime.rows.admission import Waiting, outcome_of, row_or_outcome
from spectr_runtime.rows.request import Outcome, Request
from spectr_runtime.rows.row import Row
from spectr_runtime.rows.scheduler import Scheduler
from spectr_runtime.rows.text.tokenizer import Tokenizer
from spectr_runtime.speculation.batching import Batching, Sizes
from spectr_runtime.speculation.launch import Launcher, open_recorder
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import Plan, PlanChoice, check_call_tokens, refusal_of
from spectr_runtime.speculation.timing import Timing
from spectr_runtime.speculation.turn import Turn, Turns


class Decoder:
    """Decodes requests with a bundle's pair of models, or with its target alone.

    The text of a row depends on the bundle, the plan, the request and the run seed alone, never on the other rows of
    the batch. The one exception is the last bits of the models' logits, which may differ between batch shapes and
    between compiled engines.

    When memory runs out, as it may for caches that grow, the batch is halved, and the caches with it. Rows that no
    longer fit wait, and go on later from what they wrote. So do all when larger compiled engines replace those that a
    text has outgrown. After an error that ended a call, the next one begins with empty caches.

    Attributes:
        timing: How much time each phase of decoding took.
        rounds: How many rounds took each plan.
        reading: How many tokens of the rows' texts were read, and how many copied from those that begin alike.
        plain: Rounds beside those of plain decoding, as far as it is known what these cost: by the automatic plan.
        piece: Returns the text that one token adds after another one, and its bytes.

    Args:
        bundle: The models and their tokenizer.
        plan: Rule, drafts and length of a round. ``auto`` lets every round take the race that promises most tokens per
            second; a race writes the same text whatever it drafts, so this choice changes no row. If the bundle has no
            draft, ``auto`` drafts only what it finds in texts.
        backend: Which engines run the models.
        device: The device that the models run on, as torch names it.
        batch_size: Number of rows to decode together.
        seed: The run seed, for requests without a seed of their own.
        date: The day on which chat templates are told that they run; None for today.
        prefix_tokens: How many tokens of prefixes that prompts may share are kept, for each model; 0 for none. By
            default, a quarter of the slots that the batch has at the time, or one row's where that is more.
        longest: Tokens of the longest text, as far as is known; the first compiled engines are large enough for it.
        corpus: A file of texts to draft from, beside the rows that were finished before; see ``read_corpus``.
        replays: Whether rounds are recorded once for every shape and replayed, and the host is a round behind the
            device; None for what device and engines allow.
        call_tokens: If it is not None, all calls have one shape, whatever the batch holds: rounds feed the target so
            many tokens for each of ``batch_size`` rows, texts are read row by row, and attention sees the whole
            capacity. A row's logits are then the same to the last bit wherever kernels compute rows independently.

    Raises:
        UsageError: The batch size is not positive, ``prefix_tokens`` is negative, ``call_tokens`` is smaller than the
            trees of the plan, the backend does not run on the device or cannot replay rounds there, the plan drafts and
            the bundle has no draft, or the corpus cannot be read.
        EngineError: The backend cannot run the bundle here.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        plan: PlanChoice,
        backend: Backend = "onnxruntime",
        device: str = "cpu",
        batch_size: int = 8,
        seed: int = 0,
        date: datetime.date | None = None,
        prefix_tokens: int | None = None,
        longest: int = 1,
        corpus: Path | None = None,
        replays: bool | None = None,
        call_tokens: int | None = None,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"The batch size is {batch_size}; it must be at least 1.")
        if prefix_tokens is not None and prefix_tokens < 0:
            raise UsageError(f"prefix_tokens is {prefix_tokens}; it must be at least 0, which keeps no prefixes.")
        menu = menu_of(plan, bundle.manifest)
        check_call_tokens(call_tokens, menu)
        self.timing = Timing()
        self.rounds: Counter[Plan] = Counter()
        self._seed = seed
        self._manifest = bundle.manifest
        self._plan = plan
        self._tokenizer = Tokenizer(bundle.tokenizer, bundle.manifest.vocabulary.size, date)
        self.piece: Callable[[int], tuple[str, bytes]] = self._tokenizer.piece
        texts = open_texts(plan, menu, open_corpus(corpus, self._tokenizer))
        one_shape = call_tokens is not None
        longest = bundle.manifest.limits.capacity if one_shape else longest
        open_pair = functools.partial(
            Pair,
            bundle,
            menu,
            backend=backend,
            device=device,
            prefix_tokens=prefix_tokens,
            call_tokens=call_tokens,
        )
        self._shrinking = ShrinkingPair(open_pair, batch_size, longest, device, shrinks=not one_shape)
        self.reading = self._shrinking.reading
        self._device = self._pair.device
        rounds = f"calls of {call_tokens} tokens" if one_shape else ""
        self._keep_costs = functools.partial(keep_costs, bundle, backend, self._device, rounds=rounds)
        planner, headed = open_planner(plan, bundle, backend, self._device, rounds), self._pair.head is not None
        self._chooser = Chooser(planner, texts, self.timing, headed=headed)
        self.plain = self._chooser.plain
        self._scheduler = Scheduler(self.batch_size)
        self._company = Company(self._pair.call_cost)
        self._at_work: Callable[[], AbstractContextManager[None]] = nullcontext
        self._pause: Callable[[], None] = lambda: None
        self._waiting = Waiting(iter(()))
        self._call_tokens = call_tokens
        self._recorder = open_recorder(self._device, self._pair, replays)
        vocabulary = bundle.manifest.vocabulary.size
        launcher = Launcher(self.batch_size, vocabulary, self._device, self._recorder)
        batching = Batching(vocabulary, headed=headed)
        self._turns = Turns(launcher, batching, self.timing, ahead=self._recorder is not None)

    @property
    def batch_size(self) -> int:
        """Number of rows that are decoded together; memory may have made it smaller than was asked for."""
        return self._shrinking.rows

    @property
    def _pair(self) -> Pair:
        return self._shrinking.pair

    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Decode requests; take the next one whenever a row is free, and yield every row when it ends.

        Only one call can be in use at a time: a new one takes all rows of the batch from the one before.

        Args:
            requests: The requests; some more are taken than there is room for, so that texts of like length are read
                together. The caller must see to it that no two have the same id and choice.

        Yields:
            A completion or a failure for each request, in the order in which they end.
        """
        yield from map(self._finish, self._decode(map(self._make, requests)))

    def run(
        self, requests: Iterable[Request], take: Callable[[Outcome], None], stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """Decode requests as ``generate`` does, with the host's work beside that of the engines.

        Requests are read and made rows while passes run, so that they wait when there is room for them, and outcomes
        are made and taken likewise. Both is done on one thread, which is not that of the caller.

        Args:
            requests: The requests; up to five batches are read ahead. They are iterated on the other thread.
            take: Takes each outcome, in the order in which they end; it is called on the other thread.
            stopped: Says whether to decode only the rows that are in the batch, and no more requests.
        """
        overlap: Overlap[Row | Outcome, Row | Outcome] = Overlap(
            map(self._make, requests), lambda one: take(self._finish(one)), self.batch_size, stopped
        )
        self._at_work, self._pause = overlap.at_work, overlap.pause
        try:
            overlap.run(functools.partial(self._decode, stopped=stopped))
        finally:
            self._at_work, self._pause = nullcontext, lambda: None

    def _make(self, request: Request) -> Row | Outcome:
        self._pause()
        refused = refusal_of(request, self._plan, self._manifest)
        return refused or row_or_outcome(request, self._manifest, self._tokenizer, self._seed)

    def _finish(self, one: Row | Outcome) -> Outcome:
        outcome = outcome_of(one)
        self._pause()
        return outcome

    @torch.inference_mode()
    def _decode(
        self, made: Iterator[Row | Outcome], *, stopped: Callable[[], bool] = lambda: False
    ) -> Iterator[Row | Outcome]:
        """Decode rows; admit the next one whenever there is room, and yield every row when it ends."""
        if self._scheduler.batch or self._turns.unread:  # the call before did not end; its caches may not be whole
            self._turns.forget()
            self._shrinking.restart()
        self._waiting = Waiting(made, stopped)
        self._scheduler = Scheduler(self.batch_size)
        while True:
            yield from self._fill()
            if not self._scheduler.batch:
                self._end()
                return
            if self._outgrown():
                continue
            self._pair.surround(self._at_work)
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
                with self.timing.measure("host"):
                    ended = list(self._advance(turn))
            yield from ended

    def _fill(self) -> Iterator[Row | Outcome]:
        """Admit rows while there is room, and yield the outcomes of requests that end at once.

        Rows that are admitted together are put in the order of their lengths, since neighbours of about the same length
        are read together.
        """
        room, admitted = self._scheduler.room, list[Row]()
        if room and self._scheduler.batch and not self._company.enough(room, self.batch_size):
            return
        with self.timing.measure("host"):  # which is waited for
            found = list(self._waiting.take(room))
        for one in found:
            if isinstance(one, Row):
                admitted.append(one)
            else:
                yield one
        for row in sorted(admitted, key=lambda row: row.length):
            index = self._scheduler.admit(row)
            if self._turns.unread:  # it may leave there what is not finite, of a row that has ended
                self._pair.clear(index)

    def _end(self) -> None:
        """Read what was decoded last, for nobody, and keep what was learnt."""
        turn = self._turns.land(self._pair)
        if turn is not None:
            list(self._advance(turn))  # none of its rows is there any more
        if isinstance(self._chooser.planner, AutoPlanner):
            self._keep_costs(self._chooser.planner.costs)

    def _close_ranks(self) -> None:
        """Move rows to lower indices: a round costs as much as its last index says.

        What lies behind the last one keeps no slots.
        """
        while moved := self._scheduler.close_gap():
            row, source, target = moved
            self._pair.move(source, target, row.length)

    def _score_prompts(self) -> list[Outcome]:
        """Score the prompts of rows that want it, and release the rows that end with that."""
        if not any(row.lacks_scores for row in self._scheduler.batch if row is not None):
            return []
        with self.timing.measure("prefill"):
            failed = self._pair.reader.score_prompts(self._scheduler.batch)
        ended: list[Outcome] = []
        for index, row in enumerate(self._scheduler.batch):
            if row is None:
                continue
            if index in failed:
                self._pair.clear(index)
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
        if self._waiting.ended and None in batch and self._call_tokens is None:  # nobody waits for the free row
            if turns.unread:
                return turns.land(self._pair)
            self._close_ranks()
            batch = self._scheduler.batch
        self._pair.forget(len(batch))
        choice = self._chooser.choose(batch, self._sizes.rows(len(batch)), current=not turns.unread)
        if choice is None or turns.must_land(choice.plan, choice.offers, self._pair):
            return turns.land(self._pair)
        return turns.issue(*choice, self._pair, batch, self._sizes)

    @property
    def _sizes(self) -> Sizes:
        longest = min(self._pair.longest, self._manifest.limits.capacity)
        return Sizes(self.batch_size, longest, padded=self._recorder is not None, call_tokens=self._call_tokens)

    def _outgrown(self) -> bool:
        """Open larger engines if a text has outgrown the caches, and return whether that was so."""
        growth = self._turns.growth
        longest = max(min(row.length + growth, row.limit) for row in self._scheduler.batch if row is not None)
        if longest <= self._pair.longest:
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
        self._scheduler = Scheduler(self.batch_size)

    def _advance(self, turn: Turn) -> Iterator[Row | Outcome]:
        """Give each row that took part its tokens, release the rows that end, and yield them."""
        wrote, ended = turn.wrote, 0
        self.rounds[turn.plan] += 1
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
            self._pair.clear(index)
        elif present is row and not self._turns.unread:
            self._pair.clear(index, row.cached)
