"""The decoder: takes requests, keeps a batch of rows full, and yields completions."""

from __future__ import annotations

import datetime
import functools
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path

from spectr_runtime.backends import Backend
from spectr_runtime.bundle import Bundle
from spectr_runtime.errors import UsageError
from spectr_runtime.loop import Loop
from spectr_runtime.overlap import Overlap
from spectr_runtime.planning.calibration import keep_costs, open_planner
from spectr_runtime.planning.choice import Chooser, open_corpus, open_texts
from spectr_runtime.planning.planner import menu_of
from spectr_runtime.planning.shrinking import ShrinkingPair
from spectr_runtime.rows.admission import outcome_of, row_or_outcome
from spectr_runtime.rows.request import Outcome, Request
from spectr_runtime.rows.row import Row
from spectr_runtime.rows.text.tokenizer import Tokenizer
from spectr_runtime.speculation.batching import Sizes
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import PlanChoice, check_call_tokens, refusal_of
from spectr_runtime.speculation.timing import Timing
from spectr_runtime.speculation.turn import open_turns


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
        self._seed = seed
        self._manifest = bundle.manifest
        self._plan = plan
        self._tokenizer = Tokenizer(bundle.tokenizer, bundle.manifest.vocabulary.size, date)
        self.piece: Callable[[int], tuple[str, bytes]] = self._tokenizer.piece
        texts = open_texts(plan, menu, open_corpus(corpus, self._tokenizer))
        one_shape, vocabulary = call_tokens is not None, bundle.manifest.vocabulary.size
        capacity = bundle.manifest.limits.capacity
        open_engines = functools.partial(Pair, bundle, menu, backend=backend, device=device)
        open_pair = functools.partial(open_engines, prefix_tokens=prefix_tokens, call_tokens=call_tokens)
        longest = capacity if one_shape else longest
        self._shrinking = ShrinkingPair(open_pair, batch_size, longest, device, shrinks=not one_shape)
        self.reading, pair = self._shrinking.reading, self._shrinking.pair
        rounds = f"calls of {call_tokens} tokens" if one_shape else ""
        planner = open_planner(plan, bundle, backend, pair.device, rounds)
        chooser = Chooser(planner, texts, self.timing, headed=pair.head is not None)
        self.plain = chooser.plain
        turns = open_turns(pair, self.batch_size, vocabulary, self.timing, replays)
        sizes = Sizes(self.batch_size, capacity, padded=turns.ahead, call_tokens=call_tokens)
        learn = functools.partial(keep_costs, bundle, backend, pair.device, rounds=rounds)
        self._loop = Loop(self._shrinking, chooser, turns, sizes, self.timing, learn)
        self.rounds = self._loop.rounds
        self._pause: Callable[[], None] = lambda: None

    @property
    def batch_size(self) -> int:
        """Number of rows that are decoded together; memory may have made it smaller than was asked for."""
        return self._shrinking.rows

    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Decode requests; take the next one whenever a row is free, and yield every row when it ends.

        Only one call can be in use at a time: a new one takes all rows of the batch from the one before.

        Args:
            requests: The requests; some more are taken than there is room for, so that texts of like length are read
                together. The caller must see to it that no two have the same id and choice.

        Yields:
            A completion or a failure for each request, in the order in which they end.
        """
        yield from map(self._finish, self._loop.decode(map(self._make, requests)))

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
        self._loop.at_work, self._pause = overlap.at_work, overlap.pause
        try:
            overlap.run(functools.partial(self._loop.decode, stopped=stopped))
        finally:
            self._loop.at_work, self._pause = nullcontext, lambda: None

    def _make(self, request: Request) -> Row | Outcome:
        self._pause()
        refused = refusal_of(request, self._plan, self._manifest)
        return refused or row_or_outcome(request, self._manifest, self._tokenizer, self._seed)

    def _finish(self, one: Row | Outcome) -> Outcome:
        outcome = outcome_of(one)
        self._pause()
        return outcome
