"""``benchmarks/papers/simulated.py``: the laws are the models', and a draft that is the target loses nothing."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from scripts import load_benchmark

from spectr_select import DraftTree

TREE = DraftTree.branching((2, 2, 1))


@pytest.fixture(scope="module")
def simulated() -> ModuleType:
    return load_benchmark("papers/simulated")


@pytest.fixture(scope="module")
def pair(simulated: ModuleType) -> object:
    return simulated.SimulatedPair(contexts=4)


def test_the_laws_after_a_node_are_those_after_its_path(pair) -> None:
    drawn = next(pair.rounds(TREE, "kseq"))
    for node in range(TREE.size):
        text_BT = torch.cat([pair.context_IC, drawn.tokens_BN[:, list(TREE.path(node))]], 1)
        with torch.inference_mode():
            expected_BV = pair._target(text_BT).logits[:, -1].softmax(1)
        assert (drawn.target_BNV[:, node] - expected_BV).abs().max() < 1e-5


@pytest.mark.parametrize("rule", ["kseq", "gls", "traversal"])
def test_shorter_rounds_are_those_of_the_shorter_tree(pair, rule: str) -> None:
    long, own = (next(pair.rounds(DraftTree.paths(2, length), rule)) for length in (3, 2))
    short = long.shorter(2)
    assert short.tree == own.tree
    assert torch.equal(short.tokens_BN, own.tokens_BN)
    assert (short.target_BNV - own.target_BNV).abs().max() < 1e-5
    assert torch.equal(short.select(rule).count_B, own.select(rule).count_B)


def test_ratios_are_of_the_laws_behind_each_parent(pair) -> None:
    drawn = next(pair.rounds(TREE, "kseq"))
    ratio_BN = drawn.ratios()
    for node in range(1, TREE.size):
        token_B1, parent = drawn.tokens_BN[:, node : node + 1], TREE.parents[node]
        target_B1, draft_B1 = (
            law_BNV[:, parent].gather(1, token_B1) for law_BNV in (drawn.target_BNV, drawn.draft_BPV)
        )
        assert torch.allclose(ratio_BN[:, node - 1 : node], (target_B1 / draft_B1).double())


def test_a_draft_that_is_blended_to_the_target_is_accepted(simulated: ModuleType, pair) -> None:
    blend = simulated.Blend(1.0, "target")
    for count_S in simulated.tokens_per_round(pair, TREE, ["kseq", "race", "rrsw"], blend=blend).values():
        assert (count_S == TREE.depth + 1).all()


def test_a_draft_that_knows_nothing_is_accepted_less(simulated: ModuleType, pair) -> None:
    blends = [simulated.Blend(), simulated.Blend(1.0, "unigram")]
    near, far = (simulated.tokens_per_round(pair, TREE, ["kseq"], blend=blend, turns=4)["kseq"] for blend in blends)
    assert far.mean() < near.mean() - 1


def test_a_rule_that_does_not_take_the_tree_is_left_out(simulated: ModuleType, pair) -> None:
    assert list(simulated.tokens_per_round(pair, TREE, ["single", "gbv", "rrs"])) == ["rrs"]


def test_a_flatter_draft_is_one_of_a_higher_temperature(simulated: ModuleType, pair) -> None:
    flat = next(pair.rounds(TREE, "kseq", temperature=0.5, blend=simulated.Blend(flatter=3.0)))
    hot = next(pair.rounds(TREE, "kseq", temperature=1.5))
    assert (flat.draft_BPV[:, 0] - hot.draft_BPV[:, 0]).abs().max() < 1e-5


@pytest.mark.parametrize("blend", [(1.1, "target"), (0.5, "nothing"), (0.5, "target", 0.0)])
def test_a_blend_says_what_it_may_be(simulated: ModuleType, blend: tuple) -> None:
    with pytest.raises(ValueError, match="0 to 1"):
        simulated.Blend(*blend)
