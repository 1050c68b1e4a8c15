"""The parts of the contract's attention beyond one operator: windows, linear biases, soft caps, sinks."""

# B rows, H query heads, T tokens fed, L attention length, D head size.
from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_models import tiny_model

from spectr_runtime import BundleError
from spectr_runtime.adapter.attention import attend, operator
from spectr_runtime.adapter.inline import split_heads
from spectr_runtime.adapter.position import HIDDEN, distances, linear_biases, windowed
from spectr_runtime.contract.mask import block_mask
from spectr_select import DraftTree

TREE = DraftTree((-1, 0, 0, 1, 2, 3))
ROOTS = (3, 7)
LENGTH = 16


def tree_mask() -> torch.Tensor:
    """The nodes of the tree behind two rows whose roots are in different slots."""
    return block_mask(torch.tensor(ROOTS), TREE.ancestors(torch.device("cpu")), LENGTH)


def position_of_slot(row: int, slot: int) -> int:
    """Text in order up to the root, then the tree's nodes at the root's position plus their depth."""
    root = ROOTS[row]
    return slot if slot <= root else root + TREE.depths[slot - root]


def test_distances_in_a_tree_are_those_of_positions() -> None:
    mask_B1TL = tree_mask()
    measured_B1TL = distances(mask_B1TL)
    for row, _, node, slot in mask_B1TL.nonzero().tolist():
        own_position = ROOTS[row] + TREE.depths[node]
        assert measured_B1TL[row, 0, node, slot] == own_position - position_of_slot(row, slot)


@pytest.mark.parametrize("window", [1, 2, 3, 5, LENGTH])
def test_a_window_is_counted_along_the_text(window: int) -> None:
    mask_B1TL = tree_mask()
    seen = {tuple(place) for place in windowed(mask_B1TL, window).nonzero().tolist()}
    assert seen == {
        (row, 0, node, slot)
        for row, _, node, slot in mask_B1TL.nonzero().tolist()
        if ROOTS[row] + TREE.depths[node] - position_of_slot(row, slot) < window
    }
    assert len(seen) >= mask_B1TL.shape[0] * mask_B1TL.shape[2]


def test_linear_biases_fall_with_the_distance_and_hide_the_rest() -> None:
    mask_B1TL = tree_mask()
    biases_BHTL = linear_biases(mask_B1TL, torch.tensor([0.5, 0.125]), torch.float32)
    assert biases_BHTL.shape == (2, 2, TREE.size, LENGTH)
    assert bool((biases_BHTL[~mask_B1TL.expand_as(biases_BHTL)] == HIDDEN).all())
    # Node 5 of row 1 is at position 10, slot 2 at position 2.
    torch.testing.assert_close(biases_BHTL[1, :, 5, 2], torch.tensor([-4.0, -1.0]))
    torch.testing.assert_close(biases_BHTL[1, :, 5, 7 + 5], torch.zeros(2))


@pytest.mark.parametrize("layout", [{}, {"multi_query": False}, {"new_decoder_architecture": True, "num_kv_heads": 2}])
def test_falcon_heads_are_split_as_in_transformers(layout: dict[str, Any]) -> None:
    attention = tiny_model("falcon", **layout).transformer.h[0].self_attention
    hidden_BTE = torch.randn((2, 3, 32), generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        fused_BTF = attention.query_key_value(hidden_BTE)
        found, expected = split_heads(attention, fused_BTF), attention._split_heads(fused_BTF)
    assert all(map(torch.equal, found, expected))


def tensors() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    shapes = ((2, 4, TREE.size, 8), (2, 2, LENGTH, 8), (2, 2, LENGTH, 8))
    query_BHTD, key_BHLD, value_BHLD = (2 * torch.randn(shape, generator=generator) for shape in shapes)
    return query_BHTD, key_BHLD, value_BHLD


def plainly(
    mask_B1TL: torch.Tensor, scale: float, softcap: float | None = None, sinks_H: torch.Tensor | None = None
) -> torch.Tensor:
    """Attention head by head, as its definition reads; output [B, T, H, D]."""
    query_BHTD, key_BHLD, value_BHLD = tensors()
    output_BTHD = torch.empty((2, TREE.size, 4, 8))
    for row, head, node in torch.cartesian_prod(torch.arange(2), torch.arange(4), torch.arange(TREE.size)).tolist():
        seen = mask_B1TL[row, 0, node]
        scores = scale * key_BHLD[row, head // 2, seen] @ query_BHTD[row, head, node]
        if softcap is not None:
            scores = softcap * (scores / softcap).tanh()
        total = scores.exp().sum() + (0 if sinks_H is None else sinks_H[head].exp())
        output_BTHD[row, node, head] = (scores.exp() / total) @ value_BHLD[row, head // 2, seen]
    return output_BTHD


@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("sinks", [None, (1.0, -2.0, 0.5, 3.0)])
@pytest.mark.parametrize("window", [None, 3])
def test_attention_is_what_its_definition_says(
    softcap: float | None, sinks: tuple[float, ...] | None, window: int | None
) -> None:
    sinks_H = None if sinks is None else torch.tensor(sinks)
    module: Any = SimpleNamespace(config=SimpleNamespace(sliding_window=window), layer_idx=0)
    output_BTHD, _ = attend(module, *tensors(), tree_mask(), scaling=0.3, softcap=softcap, s_aux=sinks_H)
    seen_B1TL = tree_mask() if window is None else windowed(tree_mask(), window)
    torch.testing.assert_close(output_BTHD, plainly(seen_B1TL, 0.3, softcap, sinks_H), atol=1e-5, rtol=1e-5)


def test_an_additive_mask_of_zeros_hides_as_the_bool_one_does() -> None:
    mask_B1TL = tree_mask()
    flat_BHTL = linear_biases(mask_B1TL, torch.zeros(4), torch.float32)
    torch.testing.assert_close(
        operator(*tensors(), flat_BHTL, 0.3), operator(*tensors(), mask_B1TL, 0.3), atol=1e-6, rtol=1e-5
    )


def layer(**config: Any) -> Any:
    return SimpleNamespace(config=SimpleNamespace(**config), layer_idx=1)


@pytest.mark.parametrize(
    ("module", "hidden"),
    [
        (layer(sliding_window=2), True),
        (layer(sliding_window=2, use_sliding_window=False), False),
        (layer(sliding_window=2, layer_types=["full_attention", "sliding_attention"]), True),
        (layer(sliding_window=2, layer_types=["sliding_attention", "full_attention"]), False),
        (layer(), False),
        (SimpleNamespace(), False),
    ],
)
def test_the_configuration_says_which_layers_slide(module: Any, hidden: bool) -> None:
    everything_BTHD = plainly(tree_mask(), 0.3)
    output_BTHD, _ = attend(module, *tensors(), tree_mask(), scaling=0.3)
    assert torch.allclose(output_BTHD, everything_BTHD, atol=1e-5) is not hidden


def test_a_layer_that_tells_another_window_is_refused() -> None:
    with pytest.raises(BundleError, match=r"sees 3 tokens where its config\.json says 2"):
        attend(layer(sliding_window=2), *tensors(), tree_mask(), sliding_window=3)


def test_a_position_bias_is_refused() -> None:
    with pytest.raises(BundleError, match="a position bias"):
        attend(layer(), *tensors(), tree_mask(), position_bias=torch.zeros(1))
