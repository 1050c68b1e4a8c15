"""The models of a bundle, draft and target or the target alone, with their caches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext

from spectr_runtime.backends import FLAVOURS, Backend
from spectr_runtime.bundle import Bundle, Limits, Role
from spectr_runtime.contract import Engine
from spectr_runtime.contract.mask import ALIGNMENT, aligned
from spectr_runtime.drafting.given import GivenDrafts
from spectr_runtime.drafting.head import BesideHead, DraftHead
from spectr_runtime.drafting.model import DraftModel
from spectr_runtime.drafting.source import Source
from spectr_runtime.engines import open_engine
from spectr_runtime.reading.reader import Calls, Reader
from spectr_runtime.speculation.narrow import widened
from spectr_runtime.speculation.plan import Plan, roles_of
from spectr_runtime.speculation.surrounded import SurroundedEngine, Surroundings

# What a call costs beside its tokens, in tokens that could be read instead: it reads the weights, and an accelerator
# does the arithmetic of many tokens in that time.
CALL_COST = {"cpu": 24, "cuda": 256}
NOTHING: Mapping[Role, int] = {}


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
        call_tokens: If it is not None, rounds feed the target so many tokens a row, and reading calls are of one shape
            too.

    Attributes:
        target: The target's engine.
        draft: The draft's engine, its logits as wide as the vocabulary; None if no plan has drafts.
        head: The draft, if it is a head on the target; it reads what the target reads, in the same calls.
        device: The device that the engines take their inputs on.
        longest: How many tokens a text can have in the caches, beside the largest tree.
        reader: Reads texts into the caches.
        call_cost: What a call costs beside its tokens, in tokens that could be read instead.
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
        call_tokens: int | None = None,
    ) -> None:
        limits, tree = bundle.manifest.limits, max(*(plan.tree.size for plan in plans), call_tokens or 0)
        capacity = aligned(limits.capacity + tree)
        slots = capacity if longest is None else aligned(min(longest, limits.capacity) + tree)

        def engine(role: Role) -> Engine:
            sizes = {"rows": rows, "capacity": capacity, "slots": slots, "tree": tree}
            return open_engine(bundle, role, backend=backend, device=device, **sizes)

        self.target = engine("target")
        draft = engine("draft") if "draft" in roles_of(plans, bundle.manifest) else None
        self.draft = None if draft is None else widened(draft, bundle)
        self.device = self.target.cache.device
        # Calls of one shape read rows one by one, so that none is saved by waiting for others.
        self.call_cost = CALL_COST.get(self.device.type, CALL_COST["cuda"]) if call_tokens is None else 0
        self._passes = Surroundings()
        self.surround(nullcontext)
        caches = [engine.cache for engine in (self.draft, self.target) if engine is not None]
        self.longest = min(cache.capacity for cache in caches) - tree
        self.head = self._opened_head(max(plan.length for plan in plans))
        calls = Calls(limits.tokens_per_call, logits_per_call(backend, plans, limits), self.call_cost)
        if call_tokens is not None:
            calls = dataclasses.replace(calls, tokens=chunk_of(limits.tokens_per_call), slots=capacity)
        draft, target = self.engines
        self.reader = Reader(target, draft, self.head, prefix_tokens, bundle.manifest.vocabulary.size, calls)

    def _opened_head(self, depth: int) -> DraftHead | None:
        """Return the draft as a head on the target, if it is one."""
        if self.draft is None or self.draft.spec.head is None:
            return None
        draft, _ = self.engines
        assert draft is not None
        return DraftHead(draft, depth)

    def surround(self, at_work: Callable[[], AbstractContextManager[None]]) -> None:
        """Let engines be at work only inside of contexts.

        On a CPU that is a pass. One on a GPU goes on after its call has returned, until somebody waits for what it
        wrote; there it is that wait.

        Args:
            at_work: Makes a context.
        """
        self.waits: Callable[[], AbstractContextManager[None]]
        self._passes.make, self.waits = (at_work, nullcontext) if self.device.type == "cpu" else (nullcontext, at_work)

    @property
    def engines(self) -> tuple[Engine | None, Engine]:
        """The engines of draft and target, each pass in its context."""
        target, draft = (
            None if one is None else SurroundedEngine(one, self._passes) for one in (self.target, self.draft)
        )
        assert target is not None
        return draft, target

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
        self.reader.trim()

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


def chunk_of(tokens_per_call: int) -> int:
    """Return how many tokens a reading call of the one shape feeds: so many that the last one ends within the slots."""
    return min(ALIGNMENT, 1 << (tokens_per_call.bit_length() - 1))


def logits_per_call(backend: Backend, plans: Sequence[Plan], limits: Limits) -> int:
    """Return of how many tokens a call can return the logits: compiled engines return those of the largest tree."""
    return max(plan.tree.size for plan in plans) if backend in FLAVOURS else limits.tokens_per_call
