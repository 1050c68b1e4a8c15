"""The decoder: requests in, completions out, a full batch in between."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from spectr_runtime.adjustment import Adjustment
from spectr_runtime.attention import aligned
from spectr_runtime.bundle import Bundle, Role
from spectr_runtime.engine import Engine
from spectr_runtime.engines import Backend, open_engine
from spectr_runtime.errors import RequestError, RowError, UsageError
from spectr_runtime.logprobs import WantedLogprobs
from spectr_runtime.plan import Plan
from spectr_runtime.prefill import prefill
from spectr_runtime.request import Failure, Outcome, Request, SamplingParams
from spectr_runtime.round import Emitted, Rows, speculate
from spectr_runtime.row import Row
from spectr_runtime.sampling import Sampling
from spectr_runtime.scheduler import Scheduler
from spectr_runtime.text import Text
from spectr_runtime.timing import Timing
from spectr_select import seed_of

IDLE = SamplingParams()


class Decoder:
    """Decodes requests with a bundle's pair of models.

    A row's text depends on the bundle, the plan, the request and the run seed alone, up to the last bits of the models'
    logits, which may differ between batch shapes.

    ONNX Runtime has the cores to itself: with it, PyTorch is set to one thread, since two pools that wait for each
    other's cores cost more than the second thread brings to what is done between the passes.

    Args:
        bundle: The models and their tokenizer.
        plan: Rule, drafts and length of a round.
        backend: Which engines run the models.
        device: Where they run, as torch names it.
        batch_size: Rows decoded together.
        seed: Run seed, for requests that bring none.

    Raises:
        UsageError: The batch size is not positive, or the backend does not run on the device.
        EngineError: The backend cannot run the bundle here.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        plan: Plan,
        backend: Backend = "onnxruntime",
        device: str = "cpu",
        batch_size: int = 8,
        seed: int = 0,
    ) -> None:
        if batch_size < 1:
            raise UsageError(f"The batch size is {batch_size}; it must be at least 1.")
        self.plan = plan
        self.batch_size = batch_size
        self.timing = Timing()
        self._seed = seed
        self._manifest = bundle.manifest
        self._text = Text(bundle.tokenizer, bundle.manifest.vocabulary.size)

        def engine(role: Role) -> Engine:
            slots = aligned(bundle.manifest.limits.capacity + plan.tree.size)
            return open_engine(bundle, role, backend=backend, device=device, rows=batch_size, capacity=slots)

        self._target = engine("target")
        self._device = torch.device(device)
        if backend == "onnxruntime":
            torch.set_num_threads(1)
        self._scheduler = Scheduler(batch_size)
        self._sampling: Sampling | None = None
        self._draft = engine("draft") if plan.drafts else None

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Decode requests, pulling the next one when a row is free and yielding each row when it ends.

        One call at a time: the rows of the batch belong to the latest one.

        Args:
            requests: The requests; read lazily. Their ids must be unique, which is the caller's to see to.

        Yields:
            A completion or a failure per request, in the order in which they end.
        """
        waiting = iter(requests)
        self._scheduler, self._sampling = Scheduler(self.batch_size), None
        while True:
            yield from self._fill(waiting)
            if not self._scheduler.span:
                return
            with self.timing.measure("prefill"):
                self._prefill()
            emitted = speculate(self.plan, self._draft, self._target, self._rows(), self.timing)
            with self.timing.measure("host"):
                finished = list(self._advance(emitted))
            yield from finished

    def _fill(self, waiting: Iterator[Request]) -> Iterator[Failure]:
        """Admit requests while there is room; the ones that cannot be served come back as failures."""
        while self._scheduler.has_room:
            request = next(waiting, None)
            if request is None:
                return
            try:
                with self.timing.measure("host"):
                    self._scheduler.admit(self._row(request))
                self._sampling = None
            except RequestError as error:
                yield Failure(request.id, error, request.choice)

    def _row(self, request: Request) -> Row:
        params, vocabulary = request.params, self._manifest.vocabulary
        prompt = self._text.encode(request.prompt)
        capacity = self._manifest.limits.capacity
        if len(prompt) >= capacity:
            raise RequestError(
                f"The prompt has {len(prompt)} tokens; this bundle takes at most {capacity - 1}, and one to write.",
                param="prompt",
                code="context_length_exceeded",
                hint="Shorten it, or build the bundle with a larger --capacity.",
            )
        self._check_biased(params)
        model_ends = () if params.ignore_eos else vocabulary.eos_token_ids
        return Row(
            request=request,
            prompt=prompt,
            seed=seed_of(self._seed if params.seed is None else params.seed, request.noise_key),
            end_tokens=frozenset((*model_ends, *params.stop_token_ids)),
            limit=min(len(prompt) + params.max_tokens, capacity),
            depth=self.plan.length,
            text=self._text,
        )

    def _check_biased(self, params: SamplingParams) -> None:
        outside = [token for token, _ in params.logit_bias if not 0 <= token < self._vocabulary]
        if outside:
            raise RequestError(
                f"Token id {outside[0]} is outside the vocabulary; ids run from 0 to {self._vocabulary - 1}.",
                param="logit_bias",
            )

    @property
    def _vocabulary(self) -> int:
        return self._manifest.vocabulary.size

    def _prefill(self) -> None:
        chunk = self._manifest.limits.tokens_per_call
        for first_row, rows in self._scheduler.fresh_runs():
            prompts = [row.prompt for row in rows]
            for engine in filter(None, (self._draft, self._target)):
                prefill(engine, prompts, first_row, chunk, self._device)

    def _rows(self) -> Rows:
        """The batch as tensors; a free place among the rows decodes one token that nobody reads."""
        span = self._scheduler.span
        params, vocabulary = [IDLE if row is None else row.request.params for row in span], self._vocabulary
        if self._sampling is None:
            self._sampling = Sampling.of(params, vocabulary, self._device)
        length = [1 if row is None else row.length for row in span]
        return Rows(
            length_B=torch.tensor(length, device=self._device),
            last_B2=torch.tensor([(0, 0) if row is None else row.last for row in span], device=self._device),
            seed_B=torch.tensor([0 if row is None else row.seed for row in span], device=self._device),
            sampling=self._sampling,
            adjustment=Adjustment.of(span, vocabulary, self._device),
            logprobs=WantedLogprobs.of(params, vocabulary),
            longest=max(length),
        )

    def _advance(self, emitted: Emitted) -> Iterator[Outcome]:
        """Hand each row its tokens and take out those that end."""
        places = zip(
            self._scheduler.span,
            emitted.tokens_BD1.tolist(),
            emitted.accepted_B.tolist(),
            emitted.sound_B.tolist(),
            strict=True,
        )
        for place, (row, tokens, accepted, sound) in enumerate(places):
            if row is None:
                continue
            if not sound:
                self._clear(place)
            scored = emitted.logprobs.get(place, ())
            outcome = row.extend(tokens[: accepted + 1], accepted, scored) if sound else _not_finite(row)
            if outcome is not None:
                self._scheduler.release(place)
                self._sampling = None
                yield outcome

    def _clear(self, place: int) -> None:
        for engine in filter(None, (self._draft, self._target)):
            engine.cache.clear(place)


def _not_finite(row: Row) -> Failure:
    written = row.length - len(row.prompt)
    message = f"A model returned logits that are not finite for row {row.request.id!r} after {written} written tokens."
    error = RowError(message, code="non_finite_logits", hint="Check the bundle with `spectr-export check`.")
    return Failure(row.request.id, error, row.request.choice)
