"""The decoder: takes requests, keeps a batch of rows full, and yields completions."""

from __future__ import annotations

import datetime
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch

from spectr_runtime.backends import Backend
from spectr_runtime.bundle import Bundle
from spectr_runtime.errors import SpectrError, UsageError, is_out_of_memory
from spectr_runtime.laws.adjustment import Adjustment
from spectr_runtime.laws.logprobs import WantedLogprobs
from spectr_runtime.laws.sampling import Sampling
from spectr_runtime.overlap import Overlap
from spectr_runtime.planning.calibration import keep_costs, load_costs
from spectr_runtime.planning.costs import Spent
from spectr_runtime.planning.planner import AutoPlanner, FixedPlanner, Planner, menu_of
from spectr_runtime.rows.admission import Waiting, outcome_of, row_or_outcome
from spectr_runtime.rows.request import Failure, Outcome, Request, SamplingParams
from spectr_runtime.rows.row import Row
from spectr_runtime.rows.scheduler import Scheduler
from spectr_runtime.rows.text.tokenizer import Tokenizer
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import AUTO, Plan, PlanChoice, settle
from spectr_runtime.speculation.round import Emitted, Rows, speculate
from spectr_runtime.speculation.timing import Timing

IDLE = SamplingParams()  # the parameters of a free row, whose tokens nobody reads
LOG = logging.getLogger(__name__)


class Decoder:
    """Decodes requests with a bundle's pair of models, or with its target alone.

    The text of a row depends on the bundle, the plan, the request and the run seed alone, never on the other rows of
    the batch. The one exception is the last bits of the models' logits, which may differ between batch shapes.

    What prompts share is read once, and its keys and values are copied to the other rows.

    When memory runs out, the batch is halved. Rows that no longer fit wait, and go on later from what they wrote.

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
            default, a quarter of the slots of the batch.

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
        self._pair = self._open(bundle, plan, backend, device, prefix_tokens)
        self.reading = self._pair.reading
        self._device = self._pair.device
        self._bundle, self._backend = bundle, backend
        self._planner: Planner = (
            AutoPlanner(load_costs(bundle, backend, self._device)) if plan == AUTO else FixedPlanner(plan)
        )
        self._scheduler = Scheduler(self.batch_size)
        self._waiting = Waiting(iter(()))
        self._waits: Callable[[], AbstractContextManager[None]] = nullcontext
        # What the rows of the batch want, and whether any of them is adjusted; None if a row has changed.
        self._sampling: tuple[Sampling, WantedLogprobs | None, bool] | None = None

    def _open(self, bundle: Bundle, plan: PlanChoice, backend: Backend, device: str, prefix_tokens: int | None) -> Pair:
        """Open the pair with as many rows as the memory of a GPU has room for."""
        while True:
            try:
                return Pair(
                    bundle,
                    menu_of(plan),
                    backend=backend,
                    device=device,
                    rows=self.batch_size,
                    prefix_tokens=prefix_tokens,
                )
            except SpectrError as error:
                # Linux hands out more memory than the machine has, so a cache that it grants may still not fit.
                if device == "cpu":
                    raise
                self._halve(error)

    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Decode requests; take the next one whenever a row is free, and yield every row when it ends.

        Only one call can be in use at a time: a new one takes all rows of the batch from the one before.

        Args:
            requests: The requests; they are read as rows become free. The caller must see to it that no two have the
                same id and choice.

        Yields:
            A completion or a failure for each request, in the order in which they end.
        """
        yield from map(outcome_of, self._decode(map(self._make, requests)))

    def run(
        self, requests: Iterable[Request], take: Callable[[Outcome], None], stopped: Callable[[], bool] = lambda: False
    ) -> None:
        """Decode requests as ``generate`` does, with the host's work beside that of the engines.

        Requests are read and made rows while passes run, so that they wait when there is room for them, and outcomes
        are made and taken likewise. Both is done on one thread, which is not that of the caller.

        Args:
            requests: The requests; as many as the batch has rows are read ahead. They are iterated on the other thread.
            take: Takes each outcome, in the order in which they end; it is called on the other thread.
            stopped: Says whether to decode only the rows that are in the batch, and no more requests.
        """

        def made() -> Iterator[Row | Outcome]:
            for request in requests:
                overlap.pause()
                yield self._make(request)

        def taken(one: Row | Outcome) -> None:
            outcome = outcome_of(one)
            overlap.pause()
            take(outcome)

        overlap = Overlap(made(), taken, self.batch_size, stopped)
        # A pass on a GPU goes on after its call has returned, until somebody waits for what it wrote.
        passes, waits = (overlap.at_work, nullcontext) if self._device.type == "cpu" else (nullcontext, overlap.at_work)
        self._pair.around, self._waits = passes, waits
        try:
            overlap.run(self._decode)
        finally:
            self._pair.around = self._waits = nullcontext

    def _make(self, request: Request) -> Row | Outcome:
        return row_or_outcome(request, self._manifest, self._tokenizer, self._seed)

    @torch.inference_mode()
    def _decode(self, made: Iterator[Row | Outcome]) -> Iterator[Row | Outcome]:
        """Decode rows; admit the next one whenever there is room, and yield every row when it ends."""
        self._waiting = Waiting(made)
        self._scheduler, self._sampling = Scheduler(self.batch_size), None
        while True:
            yield from self._fill()
            if not self._scheduler.batch:
                self._keep_costs()
                return
            self._close_ranks()
            try:
                ended: list[Row | Outcome] = [*self._score_prompts()]
                written = None if ended else self._round()
            except (SpectrError, RuntimeError, MemoryError) as error:
                self._halve(error)
                self._start_over()
                continue
            if written is not None:
                with self.timing.measure("host"):
                    ended = list(self._advance(*written))
            yield from ended

    def _fill(self) -> Iterator[Row | Outcome]:
        """Admit rows while there is room, and yield the outcomes of requests that end at once.

        Rows that are admitted together are put in the order of their lengths, since neighbours of about the same length
        are read together.
        """
        admitted = list[Row]()
        with self.timing.measure("host"):  # which is waited for
            found = list(self._waiting.take(self._scheduler.room))
        for one in found:
            if isinstance(one, Row):
                admitted.append(one)
            else:
                yield one
        for row in sorted(admitted, key=lambda row: row.length):
            self._scheduler.admit(row)
            self._sampling = None

    def _close_ranks(self) -> None:
        """Move rows to lower indices when nobody waits for these: a round costs as much as its last index says."""
        while moved := self._scheduler.close_gap():
            row, source, target = moved
            self._pair.move(source, target, row.length)
            self._sampling = None

    def _score_prompts(self) -> list[Outcome]:
        """Score the prompts of rows that want it, and release the rows that end with that."""
        if not any(row.lacks_scores for row in self._scheduler.batch if row is not None):
            return []
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

    def _round(self) -> tuple[Plan, Emitted, Spent]:
        """Choose a plan, bring the caches up to the rows' texts, and run one round."""
        with self.timing.measure("host"):
            rows = self._rows()
        plan = self._planner.choose(len(rows.length_B))
        with self.timing.measure("prefill"):
            self._pair.prefill(plan, self._scheduler.batch)
        self.rounds[plan] += 1
        started, draft, verify = time.perf_counter(), self.timing.draft, self.timing.verify
        emitted = speculate(plan, *self._pair.engines, rows, self.timing)
        with self._waits():
            emitted.accepted_B.tolist()  # a GPU is at work until this is known
        spent = Spent(time.perf_counter() - started, self.timing.draft - draft, self.timing.verify - verify)
        return plan, emitted, spent

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

    def _start_over(self) -> None:
        """Evict every row from the caches; each goes on from what it wrote when it is admitted again."""
        for row in filter(None, self._scheduler.batch):
            self._waiting.evict(row)
        self._scheduler, self._sampling = Scheduler(self.batch_size), None

    def _rows(self) -> Rows:
        """Return the batch as tensors; a free row among the others decodes a text of one token that nobody reads."""
        batch, vocabulary = self._scheduler.batch, self._manifest.vocabulary.size
        if self._sampling is None:
            params = [IDLE if row is None else row.request.params for row in batch]
            adjusts = any(one.adjusts for one in params)
            wanted = WantedLogprobs.of(params, vocabulary)
            self._sampling = Sampling.of(params, vocabulary, self._device), wanted, adjusts
        sampling, logprobs, adjusts = self._sampling
        facts = [(1, 0, 0, 0) if row is None else (len(row.tokens), *row.last, row.seed) for row in batch]
        length, before, last, seed = zip(*facts, strict=True)
        length_B, seed_B, *last_2B = torch.tensor([length, seed, before, last], device=self._device)
        return Rows(
            length_B=length_B,
            last_B2=torch.stack(last_2B, 1),
            seed_B=seed_B,
            sampling=sampling,
            adjustment=Adjustment.of(batch, vocabulary, self._device) if adjusts else None,
            logprobs=logprobs,
            longest=max(length),
        )

    def _advance(self, plan: Plan, emitted: Emitted, spent: Spent) -> Iterator[Row | Outcome]:
        """Give each row its tokens, release the rows that end, and yield them."""
        results = zip(
            self._scheduler.batch,
            emitted.tokens_BD1.tolist(),
            emitted.accepted_B.tolist(),
            emitted.sound_B.tolist(),
            strict=True,
        )
        counts: list[int] = []
        for index, (row, tokens, accepted, sound) in enumerate(results):
            if row is None:
                continue
            if sound:
                counts.append(accepted)
                scored = emitted.logprobs.get(index, ())
                if not row.extend(tokens[: accepted + 1], accepted, plan.length, scored):
                    continue
                yield row
            else:
                yield self._failed(index, row)
            self._release(index)
        self._planner.observe(plan, len(emitted.accepted_B), counts, spent)

    def _failed(self, index: int, row: Row) -> Failure:
        self._pair.clear(index)  # NaN in the cache would outlive the row
        return row.not_finite()

    def _release(self, index: int) -> None:
        self._scheduler.release(index)
        self._sampling = None
