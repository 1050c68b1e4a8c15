from __future__ import annotations

import onnx
import pytest
from onnx import TensorProto, helper

from spectr_export.compiled.profiles import (
    check_coverage,
    fix_capacity,
    make_profiles,
    read_dimensions,
    shapes,
    static_capacity,
)
from spectr_runtime import BundleError
from spectr_runtime.bundle import Limits
from spectr_runtime.bundle.compiled import Dimension, Profile

LIMITS = Limits(1000, 256)
CONTRACT: dict[str, tuple[int | str, ...]] = {
    "input_ids": ("B", "T"),
    "attention_mask": ("B", 1, "T", "L"),
    "logit_index": ("B", "M"),
    "past_key_values.0.key": ("B", 2, 1088, 8),
}


def graph_of(inputs: dict[str, tuple[int | str, ...]]) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, sizes) for name, sizes in inputs.items()]
    return helper.make_model(helper.make_graph([], "graph", values, []))


def test_the_capacity_has_room_for_a_tree_behind_the_longest_text() -> None:
    assert static_capacity(LIMITS, 64) == 1088
    assert static_capacity(LIMITS, 24) == 1024


def test_decoding_takes_trees_and_prefill_takes_chunks_of_one_wanted_column() -> None:
    decode, prefill = make_profiles(LIMITS, rows=8, tree_tokens=64)
    assert decode.spans == {
        "B": Dimension(1, 8, 8), "T": Dimension(1, 16, 64), "L": Dimension(1, 576, 1088), "M": Dimension(1, 16, 64)
    }  # fmt: skip
    assert prefill.spans == {
        "B": Dimension(1, 8, 8), "T": Dimension(1, 256, 256), "L": Dimension(1, 576, 1088), "M": Dimension(1, 1, 1)
    }  # fmt: skip


@pytest.mark.parametrize("rows", [1, 32])
@pytest.mark.parametrize("tree_tokens", [1, 5, 256])
@pytest.mark.parametrize("limits", [Limits(1, 1), Limits(63, 256), Limits(131072, 8)])
def test_profiles_are_consistent_whatever_is_asked_for(rows: int, tree_tokens: int, limits: Limits) -> None:
    capacity = static_capacity(limits, tree_tokens)
    for profile in make_profiles(limits, rows=rows, tree_tokens=tree_tokens):
        assert {span.least for span in profile.spans.values()} == {1}
        assert profile.spans["L"].most == capacity >= limits.capacity + tree_tokens
        assert profile.spans["T"].most <= capacity


def test_the_capacity_alone_becomes_static() -> None:
    graph = graph_of({"past": ("B", 2, "S", 8), "input_ids": ("B", "T")})
    assert read_dimensions(graph) == {"past": ("B", 2, "S", 8), "input_ids": ("B", "T")}
    fix_capacity(graph, 1088)
    assert read_dimensions(graph) == {"past": ("B", 2, 1088, 8), "input_ids": ("B", "T")}


def test_the_contracts_inputs_are_covered() -> None:
    check_coverage(CONTRACT, make_profiles(LIMITS, rows=8, tree_tokens=64))


@pytest.mark.parametrize("size", ["S", "N", "", 0, -1])
def test_a_dynamic_size_that_is_not_the_contracts_is_refused(size: int | str) -> None:
    with pytest.raises(BundleError, match=f"Input extra of the graph has the dynamic size {size!r}"):
        check_coverage({**CONTRACT, "extra": ("B", size)}, make_profiles(LIMITS, rows=8, tree_tokens=64))


def test_a_size_that_no_input_has_is_refused() -> None:
    inputs = {name: sizes for name, sizes in CONTRACT.items() if name != "logit_index"}
    with pytest.raises(BundleError, match="No input of the graph has the size M"):
        check_coverage(inputs, make_profiles(LIMITS, rows=8, tree_tokens=64))


def test_shapes_follow_the_letters() -> None:
    spans = {"B": Dimension(1, 2, 3), "T": Dimension(4, 5, 6), "L": Dimension(7, 8, 9), "M": Dimension(1, 1, 1)}
    profile = Profile("any", spans)
    assert shapes(("B", 1, "T", "L"), profile) == ((1, 1, 4, 7), (2, 1, 5, 8), (3, 1, 6, 9))
    assert shapes((5,), profile) == ((5,), (5,), (5,))
