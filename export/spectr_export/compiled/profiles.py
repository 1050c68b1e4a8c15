"""Which calls an engine serves, from one symbolic description: the letters that the graph's own inputs carry."""

# B rows, T tokens fed, L attention length, M wanted columns, S slots.
from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx

from spectr_runtime.bundle import Limits
from spectr_runtime.bundle.compiled import LETTERS, Dimension, Profile
from spectr_runtime.contract.mask import aligned
from spectr_runtime.errors import BundleError

Dimensions = Mapping[str, tuple[int | str, ...]]
CAPACITY = "S"
TYPICAL_TREE = 16  # tokens of a decoding call that kernels are chosen for, where its profile takes as many


def static_capacity(limits: Limits, tree_tokens: int) -> int:
    """Slots of a row: the longest text, and room behind it for a draft tree."""
    return aligned(limits.capacity + tree_tokens)


def make_profiles(limits: Limits, *, rows: int, tree_tokens: int) -> tuple[Profile, Profile]:
    """A profile for decoding and one for prefill.

    Args:
        limits: The bundle's.
        rows: Most rows of a call.
        tree_tokens: Most tokens of a draft tree, its root among them.

    Returns:
        Decoding first, so that a call that both take runs where kernels were chosen for few tokens.
    """
    capacity = static_capacity(limits, tree_tokens)
    some_rows, length = Dimension(1, rows, rows), Dimension(1, aligned(capacity // 2), capacity)
    tree, chunk = Dimension(1, min(TYPICAL_TREE, tree_tokens), tree_tokens), min(limits.tokens_per_call, capacity)
    return (
        Profile("decode", {"B": some_rows, "T": tree, "L": length, "M": tree}),
        Profile("prefill", {"B": some_rows, "T": Dimension(1, chunk, chunk), "L": length, "M": Dimension(1, 1, 1)}),
    )


def fix_capacity(graph: onnx.ModelProto, capacity: int) -> None:
    """Give the cache its static size, which an engine's cache update needs."""
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == CAPACITY:
                size.dim_value = capacity


def read_dimensions(graph: onnx.ModelProto) -> Dimensions:
    """Sizes of the graph's inputs; dynamic ones are letters."""
    return {
        value.name: tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in graph.graph.input
    }


def check_coverage(dimensions: Dimensions, profiles: Sequence[Profile]) -> None:
    """Check that the profiles say something about every dynamic size of the graph, and about nothing else.

    Args:
        dimensions: The graph's, its capacity fixed.
        profiles: The engine's.

    Raises:
        BundleError: A dynamic size is no letter of the contract, or no input has one of its letters.
    """
    for name, sizes in dimensions.items():
        unknown = [size for size in sizes if size not in LETTERS and (isinstance(size, str) or size < 1)]
        if unknown:
            raise BundleError(
                f"Input {name} of the graph has the dynamic size {unknown[0]!r}; the contract's are "
                f"{', '.join(LETTERS)} and a fixed capacity.",
                hint="Build the bundle again.",
            )
    carried = {size for sizes in dimensions.values() for size in sizes}
    for profile in profiles:
        missing = sorted(set(profile.spans) - carried)
        if missing:
            raise BundleError(f"No input of the graph has the size {missing[0]}.", hint="Build the bundle again.")


def shapes(sizes: Sequence[int | str], profile: Profile) -> tuple[tuple[int, ...], ...]:
    """Smallest, best and largest shape of an input in a profile."""
    spans = [profile.spans[size] if isinstance(size, str) else Dimension(size, size, size) for size in sizes]
    return tuple(tuple(getattr(span, bound) for span in spans) for bound in ("least", "best", "most"))
