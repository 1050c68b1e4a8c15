"""Losslessness without sampling: the law of the emitted text, summed over all drafts and coins, is the target's."""

from __future__ import annotations

import pytest
import torch

from spectr_select import RULES, DraftTree, output_law, sequence_law
from spectr_select.exact.enumeration import text_law

RACES = ("race", "gls")  # their outcomes are infinitely many
ENUMERABLE = [name for name in RULES if name not in RACES]
ON_TREES = [name for name in ENUMERABLE if RULES[name].trees != "chain"]
RAGGED = DraftTree((-1, 0, 0, 1, 1, 4))
EXACT = 1e-12

pytestmark = pytest.mark.usefixtures("proposed_once")


@pytest.mark.parametrize("rule", ENUMERABLE)
def test_one_token_follows_the_target(rule, kind, laws, distance) -> None:
    for vocabulary, k in ((3, 1), (2, 3), (4, 2), (3, 3)):
        k = 1 if RULES[rule].trees == "chain" else k if RULES[rule].drawing == "iid" else min(k, vocabulary)
        target_BV, draft_BV = laws(kind, 3, vocabulary)
        law_BV = output_law(rule, target_BV, draft_BV, k)
        for law_V, target_V in zip(law_BV, target_BV, strict=True):
            assert distance(law_V, target_V / target_V.sum()) <= EXACT


@pytest.mark.parametrize(
    "tree", [DraftTree.chain(0), DraftTree.chain(1), DraftTree.chain(3)], ids=lambda t: f"L{t.depth}"
)
@pytest.mark.parametrize("rule", ENUMERABLE)
def test_text_of_a_chain_follows_the_target(rule, tree, kind, models, distance) -> None:
    target, draft = models(kind, 3)
    assert distance(sequence_law(rule, tree, target, draft), text_law(target, tree.depth + 1)) <= EXACT


@pytest.mark.parametrize(
    ("tree", "vocabulary"),
    [
        (DraftTree.paths(2, 2), 3),
        (DraftTree.paths(3, 2), 3),
        (DraftTree.paths(2, 3), 2),
        (DraftTree.branching((2, 2)), 2),
        (RAGGED, 3),
    ],
    ids=["2 paths of 2", "3 paths of 2", "2 paths of 3", "branching", "ragged"],
)
@pytest.mark.parametrize("rule", ON_TREES)
def test_text_of_a_tree_follows_the_target(rule, tree, vocabulary, kind, models, distance) -> None:
    if RULES[rule].trees == "paths" and not tree.is_paths:
        with pytest.raises(ValueError, match="takes paths of one length"):
            sequence_law(rule, tree, *models(kind, vocabulary))
        return
    target, draft = models(kind, vocabulary)
    assert distance(sequence_law(rule, tree, target, draft), text_law(target, tree.depth + 1)) <= EXACT


@pytest.mark.parametrize("rule", ON_TREES)
def test_text_over_four_tokens_follows_the_target(rule, models, distance) -> None:
    target, draft = models("mixed", 4, seed=1)
    tree = DraftTree.paths(2, 2)
    assert distance(sequence_law(rule, tree, target, draft), text_law(target, 3)) <= EXACT


def test_text_law_multiplies_the_laws_along_a_text() -> None:
    def law(text: tuple[int, ...]) -> torch.Tensor:
        return torch.tensor([1.0, 3.0]) if text == (1,) else torch.tensor([1.0, 1.0])

    torch.testing.assert_close(
        text_law(law, 2), torch.tensor([[0.25, 0.25], [0.125, 0.375]], dtype=torch.float64), rtol=0, atol=1e-15
    )
