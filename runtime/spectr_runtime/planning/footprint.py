"""How much memory decoding needs, computed before any model is loaded."""

from __future__ import annotations

import dataclasses

from spectr_runtime.backends import FLAVOURS, Backend
from spectr_runtime.bundle import Bundle, ModelSpec, Role
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.contract.cache import slots_for
from spectr_runtime.contract.mask import aligned
from spectr_runtime.planning.planner import menu_of
from spectr_runtime.speculation.plan import PlanChoice, settle
from spectr_runtime.speculation.prefixes import KEPT_SHARE

LAW_BYTES = 4 * 4  # for each token of the vocabulary at each node: logits, scaled logits and laws, in float32
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Footprint:
    """The memory that decoding needs, in bytes. The activations of the engines come on top.

    While a cache grows it takes up to an eighth more.

    Attributes:
        weights: The weights of the models that the plan needs.
        slots: Number of slots of a row in the caches, when these are as long as they get.
        cache_per_row: The keys and values of a row.
        prefixes_per_row: The keys and values of shared prefixes that are kept, divided by the rows of the batch.
        laws_per_row: The logits and laws of a row's draft tree.
    """

    weights: int
    slots: int
    cache_per_row: int
    prefixes_per_row: int
    laws_per_row: int

    @staticmethod
    def of(bundle: Bundle, plan: PlanChoice, backend: Backend, longest: int | None = None) -> Footprint:
        """Return what decoding a bundle with a plan needs; with ``auto``, what the largest plan needs.

        All rows have as many slots as the longest one beside them needs. So the longest text counts, where caches grow
        with the texts, and not the mean one.

        Args:
            bundle: The models.
            plan: What rounds draft.
            backend: Which engines run the models.
            longest: Tokens of the longest text; with compiled engines, of the longest that they have room for. None for
                the bundle's capacity.

        Raises:
            UsageError: The plan drafts, and the bundle has no draft.
        """
        plans = menu_of(settle(plan, bundle.manifest))
        nodes = max(one.tree.size for one in plans)
        slots = aligned(bundle.manifest.limits.capacity + nodes)
        if longest is not None:
            needed = aligned(longest + nodes)
            slots = needed if backend in FLAVOURS else slots_for(needed, slots)
        roles: tuple[Role, ...] = bundle.manifest.roles if any(one.drafts for one in plans) else ("target",)
        slot_bytes = sum(_slot_bytes(bundle.manifest.models[role]) for role in roles)
        return Footprint(
            weights=sum((bundle.model(role) / WEIGHTS).stat().st_size for role in roles),
            slots=slots,
            cache_per_row=slots * slot_bytes,
            prefixes_per_row=slots // KEPT_SHARE * slot_bytes,
            laws_per_row=len(roles) * nodes * bundle.manifest.vocabulary.size * LAW_BYTES,
        )

    @property
    def per_row(self) -> int:
        """The bytes that every row of the batch adds."""
        return self.cache_per_row + self.prefixes_per_row + self.laws_per_row

    def total(self, rows: int) -> int:
        """Return the bytes that a batch needs in all."""
        return self.weights + rows * self.per_row

    def rows_in(self, memory: int) -> int:
        """Return the number of rows that fit into so many bytes; 0 if none does."""
        return max(0, memory - self.weights) // self.per_row


def _slot_bytes(spec: ModelSpec) -> int:
    return 2 * spec.layers * spec.kv_heads * spec.head_size * SIZES[spec.dtype]
