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
from spectr_runtime.drafting.given import GivenDrafts
from spectr_runtime.drafting.head import BesideHead, DraftHead
from spectr_runtime.drafting.model import DraftModel
from spectr_runtime.drafting.source import Source
from spectr_runtime.engines import open_engine
from spectr_runtime.laws.logprobs import score
from spectr_runtime.reading.counts import Reading
from spectr_runtime.reading.prefill import prefill, prefill_scored
from spectr_runtime.reading.prefixes import PrefixStore
from spectr_runtime.rows.row import Row, Scored
from spectr_runtime.speculation.narrow import widened
from spectr_runtime.speculation.plan import Plan, roles_of
from spectr_runtime.speculation.surrounded import SurroundedEngine

# What a call costs beside its tokens, in tokens that could be read instead: it reads the weights, and an accelerator
# does the arithmetic of many tokens in that time.
CALL_TOKENS = {"cpu": 24, "cuda": 256}
NOTHING: Mapping[Role, int] = {}
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
        rows: Rows of the caches; ``restart`` changes their number.
        longest: How many tokens a text has at most, for now; None for as many as the bundle takes. Of compiled engines
            those are opened that are just large enough.
        prefix_tokens: How many tokens of prefixes that texts may share are kept, for each model; None for as many as
            ``kept_tokens`` says.

    Attributes:
        target: The target's engine.
        draft: The draft's engine, its logits as wide as the vocabulary; None if no plan has drafts.
        head: The draft, if it is a head on the target; it reads what the target reads, in the same calls.
        device: The device that the engines take their inputs on.
        longest: How many tokens a text can have in the caches, beside the largest tree.
        reading: How many tokens the target read, and how many were copied.
        call_tokens: What a call costs beside its tokens, in tokens that could be read instead.
        waits: Makes the context of a wait for what passes wrote.

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
        longest: int | None = None,
        prefix_tokens: int | None = 0,
    ) -> None:
        limits, tree = bundle.manifest.limits, max(plan.tree.size for plan in plans)
        capacity = aligned(limits.capacity + tree)
        slots = capacity if longest is None else aligned(min(longest, limits.capacity) + tree)
        self._chunk = limits.tokens_per_call
        self._most_scored = logits_per_call(backend, plans, limits)
        self._vocabulary = bundle.manifest.vocabulary.size

        def engine(role: Role) -> Engine:
            sizes = {"rows": rows, "capacity": capacity, "slots": slots, "tree": tree}
            return open_engine(bundle, role, backend=backend, device=device, **sizes)

        self.target = engine("target")
        draft = engine("draft") if "draft" in roles_of(plans, bundle.manifest) else None
        self.draft = None if draft is None else widened(draft, bundle)
        self.device = self.target.cache.device
        self.reading = Reading()
        self.call_tokens = CALL_TOKENS.get(self.device.type, CALL_TOKENS["cuda"])
        self.surround(nullcontext)
        engines: Mapping[Role, Engine | None] = {"target": self.target, "draft": self.draft}
        self.longest = min(one.cache.capacity for one in engines.values() if one is not None) - tree
        self.head = self._opened_head(max(plan.length for plan in plans))
        if self.head is not None:
            self._prefixes = {"target": PrefixStore(self.target.cache, prefix_tokens, self.head.cache)}
        else:
            models = {role: one for role, one in engines.items() if one is not None}
            self._prefixes = {role: PrefixStore(one.cache, prefix_tokens) for role, one in models.items()}

    def _opened_head(self, depth: int) -> DraftHead | None:
        """Return the draft as a head on the target, if it is one."""
        if self.draft is None or self.draft.spec.head is None:
            return None
        return DraftHead(SurroundedEngine(self.draft, lambda: self._passes()), depth)

    def surround(self, at_work: Callable[[], AbstractContextManager[None]]) -> None:
        """Let engines be at work only inside of contexts.

        On a CPU that is a pass. One on a GPU goes on after its call has returned, until somebody waits for what it
        wrote; there it is that wait.

        Args:
            at_work: Makes a context.
        """
        self._passes: Callable[[], AbstractContextManager[None]]
        self.waits: Callable[[], AbstractContextManager[None]]
        self._passes, self.waits = (at_work, nullcontext) if self.device.type == "cpu" else (nullcontext, at_work)

    @property
    def engines(self) -> tuple[Engine | None, Engine]:
        """The engines of draft and target, each pass in its context."""
        draft = None if self.draft is None else SurroundedEngine(self.draft, self._passes)
        return draft, SurroundedEngine(self.target, self._passes)

    @property
    def capturable(self) -> bool:
        """Whether rounds of these engines can be recorded."""
        return self.target.capturable and (self.draft is None or self.draft.capturable)

    def source(self, plan: Plan) -> Source:
        """Return what drafts for a plan."""
        draft, _ = self.engines
        if self.head is not None:
            return self.head if plan.feeds_draft else BesideHead(self.head)
        return DraftModel(draft) if plan.feeds_draft and draft is not None else GivenDrafts()

    def catch_up(self, plan: Plan, batch: Sequence[Row | None]) -> set[int]:
        """Read what the caches lack of the rows' texts, and return the indices of rows of which they still lack some.

        While some rows could go on, a call's tokens of each other one are read, so that a long text stalls nobody for
        more than a few rounds. If no row can go on, there is nobody to wait for, and all are read to their ends.

        Args:
            plan: The plan of the next round.
            batch: The rows by their index in the caches; None for a free one.
        """
        behind = self.behind(plan, batch)
        if not behind:
            return behind
        stalls = len(behind) < len(batch) - batch.count(None)
        self.prefill(plan, batch, self._chunk if stalls else None)
        return self.behind(plan, batch)

    def behind(self, plan: Plan, batch: Sequence[Row | None]) -> set[int]:
        """Return the indices of rows of whose texts the caches lack more than a round of this plan feeds.

        The round feeds the last tokens of every text: the root to the target, and the root with the token before it to
        the draft.
        """
        rows = [(index, row) for index, row in enumerate(batch) if row is not None]
        behind = {index for index, row in rows if _lacks(row, "target", 1)}
        if not plan.feeds_draft or self.head is not None:
            return behind
        return behind | {index for index, row in rows if _lacks(row, "draft", 2)}

    def prefill(self, plan: Plan, batch: Sequence[Row | None], most: int | None = None) -> None:
        """Read into the caches what they lack of the rows' texts, or a part of it.

        A row that is not behind is left out. A beginning that was read for another row, in this call or before, is
        copied.

        Args:
            plan: The plan of the next round. Without drafts, the draft reads nothing and falls behind.
            batch: The rows by their index in the caches; None for a free one.
            most: How many tokens of a row are read at most; None for all.
        """
        draft, target = self.engines
        self._prefill("target", target, 1, batch, most)
        if plan.feeds_draft and draft is not None and self.head is None:
            self._prefill("draft", draft, 2, batch, most)

    def _prefill(self, role: Role, engine: Engine, left: int, batch: Sequence[Row | None], most: int | None) -> None:
        behind = {index: row for index, row in enumerate(batch) if row is not None and _lacks(row, role, left)}
        prompts = {index: _shareable(row) for index, row in behind.items()}
        for stage in self._prefixes[role].stages(prompts, lambda index: behind[index].cached[role], self.call_tokens):
            copied = sum(max(held - behind[index].cached[role], 0) for index, held in stage.items())
            for index, held in stage.items():
                # A head is to be given the target's state of the token before the first one that it reads.
                last = 0 if self.head is None or held <= behind[index].cached[role] else 1
                behind[index].cached[role] = max(held - last, behind[index].cached[role])
            ready = {index: behind[index] for index in stage if _lacks(behind[index], role, left)}
            read, calls = self._read(role, engine, [ready.get(index) for index in range(len(batch))], most)
            self.reading.calls += calls
            if role == "target":
                self.reading.copied += copied
                self.reading.read += read

    def _read(self, role: Role, engine: Engine, lacking: Sequence[Row | None], most: int | None) -> tuple[int, int]:
        """Read rows, at most so many tokens of each; return how many of all were read, and in how many calls."""
        read = calls = 0
        for start, run in _runs(lacking):
            missing = [row.length - 1 - row.cached[role] for row in run]
            missing = missing if most is None else [min(tokens, most) for tokens in missing]
            for part in groups(missing, self.call_tokens):
                rows, cached = run[part], [row.cached[role] for row in run[part]]
                for row, tokens in zip(rows, missing[part], strict=True):
                    row.cached[role] += tokens
                    if self.head is not None:
                        row.cached["draft"] = row.cached[role]
                texts = [row.tokens[: row.cached[role] + 1] for row in rows]
                calls += prefill(engine, texts, cached, start + part.start, self._chunk, self.device, self.head)
            read += sum(missing)
        return read, calls

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
                self.reading.read += row.length - 1
                if self.head is not None:  # the prompt is read again, for the head too
                    continue
                row.cached["target"] = row.length - 1
                store = self._prefixes["target"]
                store.save(index, store.names(_shareable(row)))
        return failed

    def _scored(self, first_row: int, rows: Sequence[Row]) -> list[list[list[Scored]]]:
        """Return the log-probabilities of every row's tokens but the first."""
        texts, found = [row.tokens for row in rows], [list[list[Scored]]() for _ in rows]
        most = max(row.request.params.logprobs or 0 for row in rows)
        chunk = max(1, min(self._chunk, self._most_scored, SCORED_LOGITS // (len(rows) * self._vocabulary)))
        _, target = self.engines
        for logits_BCV in prefill_scored(target, texts, first_row, chunk, self.device):
            begin, size = len(found[0]) + 1, logits_BCV.shape[1]
            following = [text[begin : begin + size] for text in texts]
            follow_BC = torch.tensor([[*ids, *[0] * (size - len(ids))] for ids in following], device=self.device)
            more_BC = score(logits_BCV[..., : self._vocabulary], follow_BC, most).listed()
            for scored, more in zip(found, more_BC, strict=True):
                scored += more
        return [scored[: len(text) - 1] for scored, text in zip(found, texts, strict=True)]

    def hold(self, rows: int, slots: int) -> tuple[int, ...]:
        """Make room for a round in all caches; see ``KVCache.hold_round``.

        Returns:
            How often the memory of each cache has moved so far.
        """
        caches = [engine.cache for engine in (self.draft, self.target) if engine is not None]
        for cache in caches:
            cache.hold_round(rows, slots)
        return tuple(cache.generation for cache in caches)

    def move(self, source: int, target: int, slots: int) -> None:
        """Copy the first slots of a row of both caches to another index."""
        for engine in filter(None, (self.draft, self.target)):
            engine.cache.move(source, target, slots)
        if self.head is not None:
            self.head.move(source, target)

    def forget(self, first: int) -> None:
        """Take note that no row of both caches from an index on holds a text, for which it would keep slots."""
        for engine in filter(None, (self.draft, self.target)):
            engine.cache.reach[first:] = [0] * (engine.cache.rows - first)

    def restart(self, rows: int) -> None:
        """Empty both caches, and go on with so many rows; the memory of the others is free, and that of their prefixes.

        Raises:
            EngineError: There is no memory.
        """
        for engine in filter(None, (self.draft, self.target)):
            engine.cache.restart(rows)
        if self.head is not None:
            self.head.restart(rows)
        for store in self._prefixes.values():
            store.trim()

    def clear(self, index: int, held: Mapping[Role, int] = NOTHING) -> None:
        """Zero the row at an index of both caches, which may hold NaN that would outlive it.

        Args:
            index: The index.
            held: How many slots of each cache, from the first one on, are to stay.
        """
        engines: Mapping[Role, Engine | None] = {"draft": self.draft, "target": self.target}
        if self.head is not None:
            self.head.clear(index)
        for role, engine in engines.items():
            if engine is not None:
                engine.cache.clear(index, held.get(role, 0))


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
