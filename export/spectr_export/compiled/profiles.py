"""The shapes of the calls that an engine serves, one profile for decoding and one for prefill.

The inputs of a graph name their dynamic sizes by letters, for instance ``input_ids`` [B, T]. A profile gives each
letter a smallest, a best and a largest size, from which the shapes of all inputs follow.
"""

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
# The number of tokens in a decoding call for which TensorRT chooses its kernels, if the profile allows so many.
TYPICAL_TREE = 16


def static_capacity(limits: Limits, tree_tokens: int) -> int:
    """Return the slots of a row: the longest text, and room after it for a draft tree."""
    return aligned(limits.capacity + tree_tokens)


def make_profiles(limits: Limits, *, rows: int, tree_tokens: int) -> tuple[Profile, Profile]:
    """Make a profile for decoding and one for prefill.

    Args:
        limits: The limits of the bundle.
        rows: Most rows of a call.
        tree_tokens: Most tokens of a draft tree, including its root.

    Returns:
        The profile for decoding first, so that a call that fits both runs with kernels chosen for few tokens.
    """
    capacity = static_capacity(limits, tree_tokens)
    some_rows, length = Dimension(1, rows, rows), Dimension(1, aligned(capacity // 2), capacity)
    tree, chunk = Dimension(1, min(TYPICAL_TREE, tree_tokens), tree_tokens), min(limits.tokens_per_call, capacity)
    return (
        Profile("decode", {"B": some_rows, "T": tree, "L": length, "M": tree}),
        Profile("prefill", {"B": some_rows, "T": Dimension(1, chunk, chunk), "L": length, "M": Dimension(1, 1, 1)}),
    )


def fix_capacity(graph: onnx.ModelProto, capacity: int) -> None:
    """Give the cache in a graph a static number of slots, which TensorRT's cache update needs; the graph is changed."""
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param == CAPACITY:
                size.dim_value = capacity


def read_dimensions(graph: onnx.ModelProto) -> Dimensions:
    """Return the sizes of a graph's inputs by name, for instance ``("B", "T")``; dynamic sizes are letters."""
    return {
        value.name: tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in graph.graph.input
    }


def check_coverage(dimensions: Dimensions, profiles: Sequence[Profile]) -> None:
    """Check that the graph's dynamic sizes are exactly those for which the profiles give a range.

    Args:
        dimensions: The sizes of the graph's inputs, its capacity fixed.
        profiles: The profiles of the engine.

    Raises:
        BundleError: A dynamic size is not a letter of the contract, or a letter of the profiles is on no input.
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
    """Return the smallest, the best and the largest shape of an input in a profile."""
    spans = [profile.spans[size] if isinstance(size, str) else Dimension(size, size, size) for size in sizes]
    return tuple(tuple(getattr(span, bound) for span in spans) for bound in ("least", "best", "most"))
