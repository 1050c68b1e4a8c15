"""The models of a bundle, draft and target or the target alone, with their caches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from spectr_runtime.backends import FLAVOURS, Backend
from spectr_runtime.bundle import Bundle, Limits, Role
from spectr_runtime.contract import Engine
from spectr_runtime.contract.mask import aligned
from spectr_runtime.engines import open_engine
from spectr_runtime.laws.logprobs import score
from spectr_runtime.rows.row import Row, Scored
from spectr_runtime.speculation.narrow import WidenedEngine
from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.prefill import prefill, prefill_scored
from spectr_runtime.speculation.prefixes import PrefixStore, kept_tokens
from spectr_runtime.speculation.reading import Reading
from spectr_runtime.speculation.surrounded import SurroundedEngine

# What a call costs beside its tokens, in tokens that could be read instead: it reads the weights, and an accelerator
# does the arithmetic of many tokens in that time.
CALL_TOKENS = {"cpu": 24, "cuda": 256}
NEIGHBOURS = 64  # the most rows of a reading call
SCORED_LOGITS = 2**25  # the most logits that one call returns to score prompts: 128 MB, and a copy of them


class Pair:
    """The engines that some plans need, their caches of one size.

    Args:
        bundle: The models.
        plans: Plans that will be used. The largest of their trees sizes the caches, and the draft is opened only if one
            of them has drafts.
        backend: Which engines run the models.
        device: The device that the models run on, as torch names it.
        rows: Rows of the caches.
        prefix_tokens: How many tokens of prefixes that texts may share are kept, for each model; None for as many as
            ``kept_tokens`` says.

    Attributes:
        target: The target's engine.
        draft: The draft's engine, its logits as wide as the vocabulary; None if no plan has drafts.
        device: The device that the engines take their inputs on.
        reading: How many tokens the target read, and how many were copied.
        around: Makes a context for every pass, whose block the pass is.

    Raises:
        UsageError: The backend does not run on the device.
        EngineError: The backend cannot run the bundle here.
    """

    def __init__(
        self,
        bundle: Bundle,
        plans: Sequence[Plan],
        *,
        backend: Backend,
        device: str,
        rows: int,
        prefix_tokens: int | None = 0,
    ) -> None:
        limits = bundle.manifest.limits
        slots = aligned(limits.capacity + max(plan.tree.size for plan in plans))
        self._chunk = limits.tokens_per_call
        self._most_scored = logits_per_call(backend, plans, limits)
        self._vocabulary = bundle.manifest.vocabulary.size

        def engine(role: Role) -> Engine:
            return open_engine(bundle, role, backend=backend, device=device, rows=rows, capacity=slots)

        self.target = engine("target")
        draft = engine("draft") if any(plan.drafts for plan in plans) else None
        narrow = draft is not None and draft.spec.vocabulary < bundle.manifest.vocabulary.size
        self.draft = WidenedEngine(draft, bundle.manifest.vocabulary) if draft is not None and narrow else draft
        self.device = torch.device(device)
        self.reading = Reading()
        self.around: Callable[[], AbstractContextManager[None]] = nullcontext
        self._call_tokens = CALL_TOKENS.get(self.device.type, CALL_TOKENS["cuda"])
        kept = kept_tokens(rows, slots) if prefix_tokens is None else prefix_tokens
        engines: Mapping[Role, Engine | None] = {"target": self.target, "draft": self.draft}
        self._prefixes = {role: PrefixStore(one, kept) for role, one in engines.items() if one is not None}

    @property
    def engines(self) -> tuple[Engine | None, Engine]:
        """The engines of draft and target for a round, each pass in its context."""
        draft = None if self.draft is None else SurroundedEngine(self.draft, self.around)
        return draft, SurroundedEngine(self.target, self.around)

    def prefill(self, plan: Plan, batch: Sequence[Row | None]) -> None:
        """Read into the caches what they lack of the rows' texts.

        The round itself feeds the last tokens of every text: the root to the target, and the root with the token before
        it to the draft. A row that lacks no more than these is left out. A beginning that was read for another row, in
        this call or before, is copied.

        Args:
            plan: The plan of the next round. Without drafts, the draft reads nothing and falls behind.
            batch: The rows by their index in the caches; None for a free one.
        """
        self._prefill("target", self.target, 1, batch)
        if plan.drafts and self.draft is not None:
            self._prefill("draft", self.draft, 2, batch)

    def _prefill(self, role: Role, engine: Engine, left: int, batch: Sequence[Row | None]) -> None:
        behind = {index: row for index, row in enumerate(batch) if row is not None and _lacks(row, role, left)}
        # A row of which the cache holds a part needs no copies, and what it has written is its own.
        prompts = {index: () if row.cached[role] else _shareable(row) for index, row in behind.items()}
        for stage in self._prefixes[role].stages(prompts, self._call_tokens):
            for index, copied in stage.items():
                behind[index].cached[role] += copied
            ready = {index: behind[index] for index in stage if _lacks(behind[index], role, left)}
            if role == "target":
                self.reading.copied += sum(stage.values())
                self.reading.read += sum(row.length - 1 - row.cached[role] for row in ready.values())
            self._read(role, engine, [ready.get(index) for index in range(len(batch))])

    def _read(self, role: Role, engine: Engine, lacking: Sequence[Row | None]) -> None:
        for start, run in _runs(lacking):
            missing = [row.length - 1 - row.cached[role] for row in run]
            for part in groups(missing, self._call_tokens):
                rows = run[part]
                texts, cached = [row.tokens for row in rows], [row.cached[role] for row in rows]
                surrounded = SurroundedEngine(engine, self.around)
                prefill(surrounded, texts, cached, start + part.start, self._chunk, self.device)
                for row in rows:
                    row.cached[role] = row.length - 1

    def score_prompts(self, batch: Sequence[Row | None]) -> list[int]:
        """Read the prompts whose log-probabilities are wanted into the target's cache, and score their tokens.

        Args:
            batch: The rows by their index in the caches; None for a free one.

        Returns:
            The indices of rows whose logits were not finite.
        """
        failed = []
        for first_row, rows in _runs([row if row is not None and row.lacks_scores else None for row in batch]):
            for index, (row, scored) in enumerate(zip(rows, self._scored(first_row, rows), strict=True), first_row):
                if any(math.isnan(logprob) for token in scored for _, logprob in token):
                    failed.append(index)
                row.score_prompt(scored)
                row.cached["target"] = row.length - 1
                self.reading.read += row.length - 1
                store = self._prefixes["target"]
                store.save(index, store.names(_shareable(row)))
        return failed

    def _scored(self, first_row: int, rows: Sequence[Row]) -> list[list[list[Scored]]]:
        """Return the log-probabilities of every row's tokens but the first."""
        texts, found = [row.tokens for row in rows], [list[list[Scored]]() for _ in rows]
        most = max(row.request.params.logprobs or 0 for row in rows)
        chunk = max(1, min(self._chunk, self._most_scored, SCORED_LOGITS // (len(rows) * self._vocabulary)))
        target = SurroundedEngine(self.target, self.around)
        for logits_BCV in prefill_scored(target, texts, first_row, chunk, self.device):
            begin, size = len(found[0]) + 1, logits_BCV.shape[1]
            following = [text[begin : begin + size] for text in texts]
            follow_BC = torch.tensor([[*ids, *[0] * (size - len(ids))] for ids in following], device=self.device)
            for scored, more in zip(found, score(logits_BCV[..., : self._vocabulary], follow_BC, most), strict=True):
                scored += more
        return [scored[: len(text) - 1] for scored, text in zip(found, texts, strict=True)]

    def move(self, source: int, target: int, slots: int) -> None:
        """Copy the first slots of a row of both caches to another index."""
        for engine in filter(None, (self.draft, self.target)):
            engine.cache.move(source, target, slots)

    def clear(self, index: int) -> None:
        """Zero the row at an index of both caches."""
        for engine in filter(None, (self.draft, self.target)):
            engine.cache.clear(index)


def _lacks(row: Row, role: Role, left: int) -> bool:
    """Return whether a cache lacks more of a row's text than the last tokens, which the round feeds."""
    return row.cached[role] < row.length - left


def _shareable(row: Row) -> Sequence[int]:
    """Return what other texts may begin with too, of what a cache is to hold of a row: the last token is not read."""
    return row.prompt[: row.length - 1]


def logits_per_call(backend: Backend, plans: Sequence[Plan], limits: Limits) -> int:
    """Return of how many tokens a call can return the logits: compiled engines return those of the largest tree."""
    return max(plan.tree.size for plan in plans) if backend in FLAVOURS else limits.tokens_per_call


def groups(missing: Sequence[int], call_tokens: int) -> list[slice]:
    """Divide neighbouring rows into groups that are read together, for the least cost in all.

    A call feeds every row of a group as many tokens as the row that lacks most, so the cost of a group is that number
    times its rows, and ``call_tokens`` for the call.

    Args:
        missing: The tokens that each row lacks.
        call_tokens: What a call costs, in tokens.

    Returns:
        Slices that cover the rows in their order, of at most ``NEIGHBOURS`` rows each.
    """
    best, starts = [0], [0]  # the least cost of the first rows, and where the last group of that division starts
    for end in range(1, len(missing) + 1):
        most, found = 0, list[tuple[int, int]]()
        for start in range(end - 1, max(end - NEIGHBOURS, 0) - 1, -1):
            most = max(most, missing[start])
            found.append((best[start] + most * (end - start) + call_tokens, start))
        cost, start = min(found)
        best.append(cost)
        starts.append(start)
    parts, end = list[slice](), len(missing)
    while end:
        parts.append(slice(starts[end], end))
        end = starts[end]
    return parts[::-1]


def _runs(batch: Sequence[Row | None]) -> Iterator[tuple[int, list[Row]]]:
    """Yield the runs of neighbouring rows, which one call can serve: the index of the first one, and the rows."""
    for taken, run in itertools.groupby(enumerate(batch), lambda numbered: numbered[1] is not None):
        if taken:
            members = list(run)
            yield members[0][0], [row for _, row in members if row is not None]
