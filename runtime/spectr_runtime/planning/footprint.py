"""How much memory decoding needs, computed before any model is loaded."""

from __future__ import annotations

import dataclasses

from spectr_runtime.backends import FLAVOURS, RECORDED, Backend
from spectr_runtime.bundle import Bundle, ModelSpec
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.contract.cache import slots_for
from spectr_runtime.contract.mask import aligned
from spectr_runtime.drafting.head import places_for
from spectr_runtime.planning.planner import menu_of
from spectr_runtime.reading.prefixes import KEPT_SHARE, kept_tokens
from spectr_runtime.speculation.plan import PlanChoice, roles_of

LAW_BYTES = 4 * 4  # for each token of the vocabulary at each node: logits, scaled logits and laws, in float32
SIZES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclasses.dataclass(frozen=True, slots=True)
class Footprint:
    """The memory that decoding needs, in bytes. The activations of the engines come on top.

    While a cache grows it takes up to an eighth more.

    Attributes:
        weights: The weights of the models that the plan needs.
        slots: Number of slots of a row in the caches, when these are as long as they get.
        per_slot: The keys and values of a token, in all models that the plan needs.
        laws_per_row: The logits and laws of a row's draft tree, and what a head keeps of the target.
        recorded_per_row: The same once more, in memory of their own that all recordings of rounds share; 0 where rounds
            are not recorded.
    """

    weights: int
    slots: int
    per_slot: int
    laws_per_row: int
    recorded_per_row: int = 0

    @staticmethod
    def of(
        bundle: Bundle,
        plan: PlanChoice,
        backend: Backend,
        longest: int | None = None,
        device: str = "cpu",
        call_tokens: int | None = None,
    ) -> Footprint:
        """Return what decoding a bundle with a plan needs; with ``auto``, what the largest plan needs.

        All rows have as many slots as the longest one beside them needs. So the longest text counts, where caches grow
        with the texts, and not the mean one.

        Args:
            bundle: The models.
            plan: What rounds draft.
            backend: Which engines run the models.
            longest: Tokens of the longest text; with compiled engines, of the longest that they have room for. None for
                the bundle's capacity.
            device: The device that the models run on, as torch names it.
            call_tokens: How many tokens every round feeds the target for a row; None for those of the plan's trees.

        Raises:
            UsageError: The plan drafts, and the bundle has no draft.
        """
        plans = menu_of(plan, bundle.manifest)
        nodes = max(*(one.tree.size for one in plans), call_tokens or 0)
        slots = aligned(bundle.manifest.limits.capacity + nodes)
        if longest is not None:
            needed = aligned(longest + nodes)
            slots = needed if backend in FLAVOURS else slots_for(needed, slots)
        roles, models = roles_of(plans, bundle.manifest), bundle.manifest.models
        head = models["draft"].head if "draft" in roles else None
        kept = 0 if head is None else places_for(max(one.length for one in plans)) + nodes
        laws = len(roles) * nodes * bundle.manifest.vocabulary.size * LAW_BYTES
        return Footprint(
            weights=sum((bundle.model(role) / WEIGHTS).stat().st_size for role in roles),
            slots=slots,
            per_slot=sum(_slot_bytes(models[role]) for role in roles),
            laws_per_row=laws + kept * models["target"].states * SIZES[models["target"].dtype],
            recorded_per_row=laws if backend in RECORDED and not device.startswith("cpu") else 0,
        )

    @property
    def per_row(self) -> int:
        """All that a row takes."""
        return self.cache_per_row + self.laws_per_row + self.recorded_per_row

    @property
    def cache_per_row(self) -> int:
        """The keys and values of a row."""
        return self.slots * self.per_slot

    def prefixes(self, rows: int) -> int:
        """Return the keys and values of the shared prefixes that are kept beside so many rows."""
        return kept_tokens(rows, self.slots) * self.per_slot

    def total(self, rows: int) -> int:
        """Return the bytes that a batch needs in all."""
        return self.weights + rows * self.per_row + self.prefixes(rows)

    def rows_in(self, memory: int) -> int:
        """Return the number of rows that fit into so many bytes; 0 if none does."""
        left, row = memory - self.weights, self.per_row
        # Beside few rows as many prefixes are kept as beside KEPT_SHARE; beside more, their share for each.
        few, share = self.prefixes(KEPT_SHARE), self.prefixes(KEPT_SHARE) // KEPT_SHARE
        return max(0, min((left - few) // row, left // (row + share)))


def _slot_bytes(spec: ModelSpec) -> int:
    return 2 * spec.layers * spec.kv_heads * spec.head_size * SIZES[spec.dtype]
