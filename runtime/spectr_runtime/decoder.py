"""The decoder: takes requests, keeps a batch of rows full, and yields completions."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import logging
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import torch

from spectr_runtime.backends import Backend
from spectr_runtime.bundle import Bundle
from spectr_runtime.errors import SpectrError, UsageError, is_out_of_memory
from spectr_runtime.laws.sampling import Sampling
from spectr_runtime.planning.calibration import keep_costs, load_costs
from spectr_runtime.planning.company import Company
from spectr_runtime.planning.costs import Spent
from spectr_runtime.planning.planner import AutoPlanner, FixedPlanner, Planner, menu_of
from spectr_runtime.rows.admission import Waiting, make_row
from spectr_runtime.rows.request import Failure, Outcome, Request
from spectr_runtime.rows.row import Row
from spectr_runtime.rows.scheduler import Scheduler
from spectr_runtime.rows.text.tokenizer import Tokenizer
from spectr_runtime.speculation.batching import rows_of, sampling_of
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import AUTO, Plan, PlanChoice, settle
from spectr_runtime.speculation.reading import Reading
from spectr_runtime.speculation.round import Emitted, Rows, speculate
from spectr_runtime.speculation.timing import Timing

LOG = logging.getLogger(__name__)


class Round(NamedTuple):
    """A round that was run, and what was read before it."""

    plan: Plan
    behind: set[int]  # the indices of rows that took no part
    emitted: Emitted
    spent: Spent
    read: Reading
    seconds: float  # of both


class Decoder:
    """Decodes requests with a bundle's pair of models, or with its target alone.

    The text of a row depends on the bundle, the plan, the request and the run seed alone, never on the other rows of
    the batch. The one exception is the last bits of the models' logits, which may differ between batch shapes and
    between compiled engines.

    What prompts share is read once, and its keys and values are copied to the other rows.

    When memory runs out, as it may for caches that grow, the batch is halved, and the caches with it. Rows that no
    longer fit wait, and go on later from what they wrote.

    Of compiled engines of several sizes, small ones are open until a text outgrows them. Then larger ones take their
    place, and the rows go on from what they wrote.

    Attributes:
        batch_size: Number of rows that are decoded together; memory may have made it smaller than was asked for.
        timing: How much time each phase of decoding took.
        rounds: How many rounds took each plan.
        reading: How many tokens of the rows' texts were read, and how many copied from those that begin alike.

    Args:
        bundle: The models and their tokenizer.
        plan: Rule, drafts and length of a round. ``auto`` lets every round take the race that promises most tokens per
            second; a race writes the same text whatever it drafts, so this choice changes no row. If the bundle has no
            draft, ``auto`` is plain decoding.
        backend: Which engines run the models.
        device: The device that the models run on, as torch names it.
        batch_size: Number of rows to decode together.
        seed: The run seed, for requests without a seed of their own.
        date: The day on which chat templates are told that they run; None for today.
        prefix_tokens: How many tokens of prefixes that prompts may share are kept, for each model; 0 for none. By
            default, a quarter of the slots that the batch has at the time, or one row's where that is more.
        longest: Tokens of the longest text, as far as is known; the first compiled engines are large enough for it.

    Raises:
        UsageError: The batch size is not positive, ``prefix_tokens`` is negative, the backend does not run on the
            device, or the plan drafts and the bundle has no draft.
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
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"The batch size is {batch_size}; it must be at least 1.")
        if prefix_tokens is not None and prefix_tokens < 0:
            raise UsageError(f"prefix_tokens is {prefix_tokens}; it must be at least 0, which keeps no prefixes.")
        plan = settle(plan, bundle.manifest)
        self.batch_size = batch_size
        self.timing = Timing()
        self.rounds: Counter[Plan] = Counter()
        self._seed = seed
        self._manifest = bundle.manifest
        self._tokenizer = Tokenizer(bundle.tokenizer, bundle.manifest.vocabulary.size, date)
        self._open_pair = functools.partial(
            Pair, bundle, menu_of(plan), backend=backend, device=device, prefix_tokens=prefix_tokens
        )
        self._pair = self._open(longest)
        self.reading = self._pair.reading
        self._device = self._pair.device
        self._bundle, self._backend = bundle, backend
        self._planner: Planner = (
            AutoPlanner(load_costs(bundle, backend, self._device)) if plan == AUTO else FixedPlanner(plan)
        )
        self._scheduler = Scheduler(self.batch_size)
        self._company = Company(self._pair.call_tokens)
        self._waiting = Waiting((), self._make_row)
        self._sampling: Sampling | None = None

    def _open(self, longest: int) -> Pair:
        """Open the pair for texts of so many tokens, with as many rows as the memory of a GPU has room for."""
        while True:
            try:
                return self._open_pair(rows=self.batch_size, longest=longest)
            except SpectrError as error:
                # Linux hands out more memory than the machine has, so a cache that it grants may still not fit.
                if self._open_pair.keywords["device"] == "cpu":
                    raise
                self._halve(error)

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Decode requests; take the next one whenever a row is free, and yield every row when it ends.

        Only one call can be in use at a time: a new one takes all rows of the batch from the one before.

        Args:
            requests: The requests; they are read as rows become free. The caller must see to it that no two have the
                same id and choice.

        Yields:
            A completion or a failure for each request, in the order in which they end.
        """
        self._waiting = Waiting(requests, self._make_row)
        self._scheduler, self._sampling = Scheduler(self.batch_size), None
        while True:
            yield from self._fill()
            if not self._scheduler.batch:
                self._keep_costs()
                return
            if self._outgrown():
                continue
            self._close_ranks()
            try:
                ended = self._score_prompts()
                done = None if ended else self._round()
            except (SpectrError, RuntimeError, MemoryError) as error:
                self._halve(error)
                self._start_over()
                continue
            if done is not None:
                with self.timing.measure("host"):
                    ended = list(self._advance(done))
            yield from ended

    def _make_row(self, request: Request) -> Row:
        with self.timing.measure("host"):
            return make_row(request, self._manifest, self._tokenizer, self._seed)

    def _fill(self) -> Iterator[Outcome]:
        """Admit rows while there is room, and yield the outcomes of requests that end at once.

        Rows that are admitted together are put in the order of their lengths, since neighbours of about the same length
        are read together.
        """
        room, admitted = self._scheduler.room, list[Row]()
        if room and self._scheduler.batch and not self._company.enough(room, self.batch_size):
            return
        for one in self._waiting.take(room):
            if isinstance(one, Row):
                admitted.append(one)
            else:
                yield one
        for row in sorted(admitted, key=lambda row: row.length):
            self._scheduler.admit(row)
            self._sampling = None

    def _close_ranks(self) -> None:
        """Move rows to lower indices when nobody waits for these: a round costs as much as its last index says."""
        while self._waiting.ended and (moved := self._scheduler.close_gap()):
            row, source, target = moved
            self._pair.move(source, target, row.length)
            self._sampling = None

    def _score_prompts(self) -> list[Outcome]:
        """Score the prompts of rows that want it, and release the rows that end with that."""
        with self.timing.measure("prefill"):
            failed = self._pair.score_prompts(self._scheduler.batch)
        ended: list[Outcome] = []
        for index, row in enumerate(self._scheduler.batch):
            if row is None:
                continue
            outcome = self._failed(index, row) if index in failed else row.finish_unwritten()
            if outcome is not None:
                ended.append(outcome)
                self._release(index)
        return ended

    def _round(self) -> Round:
        """Choose a plan, bring the caches up to the rows' texts, and run one round."""
        plan = self._planner.choose(len(self._scheduler.batch))
        begun, before = time.perf_counter(), dataclasses.replace(self.reading)
        with self.timing.measure("prefill"):
            behind = self._pair.catch_up(plan, self._scheduler.batch)
        rows = self._rows(behind)
        self.rounds[plan] += 1
        started, draft, verify = time.perf_counter(), self.timing.draft, self.timing.verify
        emitted = speculate(plan, self._pair.draft, self._pair.target, rows, self.timing)
        emitted.accepted_B.tolist()  # a GPU is at work until this is known
        now = time.perf_counter()
        spent = Spent(now - started, self.timing.draft - draft, self.timing.verify - verify)
        return Round(plan, behind, emitted, spent, self.reading.since(before), now - begun)

    def _keep_costs(self) -> None:
        """Keep what the rounds showed of their costs for the next run."""
        if isinstance(self._planner, AutoPlanner):
            keep_costs(self._bundle, self._backend, self._device, self._planner.costs)

    def _halve(self, error: Exception) -> None:
        """Halve the batch size if memory ran out; raise any other error again, and this one if a single row is left."""
        if not is_out_of_memory(error) or self.batch_size == 1:
            raise error
        LOG.warning("No memory for %d rows; going on with %d.", self.batch_size, self.batch_size // 2)
        self.batch_size //= 2

    def _outgrown(self) -> bool:
        """Open larger engines if a text has outgrown the caches, and return whether that was so."""
        longest = max(row.length for row in self._scheduler.batch if row is not None)
        if longest <= self._pair.longest:
            return False
        del self._pair  # its memory is needed
        self._pair = self._open(longest)
        self._pair.reading = self.reading
        self._start_over()
        return True

    def _start_over(self) -> None:
        """Evict every row from the caches, which get as many rows as the batch has now.

        Each row goes on from what it wrote when it is admitted again.
        """
        for row in filter(None, self._scheduler.batch):
            self._waiting.evict(row)
        self._pair.restart(self.batch_size)
        self._scheduler, self._sampling = Scheduler(self.batch_size), None

    def _rows(self, behind: set[int]) -> Rows:
        batch, vocabulary = self._scheduler.batch, self._manifest.vocabulary.size
        if self._sampling is None:
            self._sampling = sampling_of(batch, vocabulary, self._device)
        return rows_of(batch, behind, self._sampling, vocabulary, self._device)

    def _advance(self, done: Round) -> Iterator[Outcome]:
        """Give each row that took part its tokens, release the rows that end, and yield their outcomes."""
        plan, emitted = done.plan, done.emitted
        results = zip(
            self._scheduler.batch,
            emitted.tokens_BD1.tolist(),
            emitted.accepted_B.tolist(),
            emitted.sound_B.tolist(),
            strict=True,
        )
        counts, ended = list[int](), 0
        for index, (row, tokens, accepted, sound) in enumerate(results):
            if row is None or index in done.behind:
                continue
            if sound:
                counts.append(accepted)
                scored = emitted.logprobs.get(index, ())
                completion = row.extend(tokens[: accepted + 1], accepted, plan.length, scored)
                if completion is None:
                    continue
                yield completion
            else:
                yield self._failed(index, row)
            self._release(index)
            ended += 1
        self._company.observe(done.seconds, ended, done.read)
        self._planner.observe(plan, len(emitted.accepted_B), counts, done.spent)

    def _failed(self, index: int, row: Row) -> Failure:
        self._pair.clear(index)  # NaN in the cache would outlive the row
        return row.not_finite()

    def _release(self, index: int) -> None:
        self._scheduler.release(index)
        self._sampling = None
