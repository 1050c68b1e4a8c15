"""Rules that accept several tokens together: how much they accept, and mistakes found in public copies of them."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from spectr_select import RULES, DraftTree, sequence_law
from spectr_select.exact.branches import every_branch
from spectr_select.exact.enumeration import text_law
from spectr_select.law import normalised
from spectr_select.round import draw_level
from spectr_select.rule import Round
from spectr_select.rules import block, gbv, otm_block, traversal


def constant(*weights: float):
    law_V = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    return lambda text: law_V


def tokens_per_round(rule: str, tree: DraftTree, target, draft) -> float:
    """Return the expected tokens of a round, summed over every draft and coin."""
    found, tokens_RN, weight_R = RULES[rule], torch.zeros((1, 1), dtype=torch.int64), torch.ones(1, dtype=torch.float64)

    def laws(law, nodes: range) -> torch.Tensor:
        texts = [[tuple(int(row[n]) for n in tree.path(node)) for node in nodes] for row in tokens_RN]
        return torch.stack([torch.stack([law(text) for text in some]) for some in texts])

    for depth in range(1, tree.depth + 1):
        laws_RMV = laws(draft, tree.levels[depth - 1])
        drawn, some = every_branch(
            len(weight_R), lambda c, d=depth, some=laws_RMV: draw_level(found, tree, d, some[c.row_R], c)
        )
        tokens_RN = torch.cat([tokens_RN[some.row_R], drawn], 1)
        weight_R = weight_R[some.row_R] * some.weight_R
    target_RNV, draft_RPV = laws(target, range(tree.size)), laws(draft, range(tree.inner))
    chosen, some = every_branch(
        len(weight_R),
        lambda c: found.select(Round(tree, tokens_RN[c.row_R], target_RNV[c.row_R], draft_RPV[c.row_R]), c),
    )
    return 1 + float((weight_R[some.row_R] * some.weight_R * chosen.count_B).sum())


def test_a_block_accepts_more_than_its_tokens_one_by_one() -> None:
    models = constant(1, 2), constant(2, 1)
    assert tokens_per_round("single", DraftTree.chain(2), *models) == pytest.approx(1 + 10 / 9, abs=1e-12)
    assert tokens_per_round("block", DraftTree.chain(2), *models) == pytest.approx(1 + 11 / 9, abs=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_block_accepts_the_sum_of_its_expected_weights(length: int) -> None:
    """Check the expected accepted drafts: ``sum_i E[w_i]`` with ``w_i = min(1, w_{i-1} t / d)`` over drafted tokens."""
    target, draft = constant(3, 1, 2), constant(1, 2, 2)
    target_V, draft_V = target(()), draft(())
    weight_S, chance_S, expected = torch.ones(1).double(), torch.ones(1).double(), 1.0
    for _ in range(length):
        weight_S = (weight_S[:, None] * target_V / draft_V).clamp(max=1).flatten()
        chance_S = (chance_S[:, None] * draft_V).flatten()
        expected += float((weight_S * chance_S).sum())
    assert tokens_per_round("block", DraftTree.chain(length), target, draft) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_one_path_leaves_no_choice_among_block_rules(length: int, models, distance) -> None:
    target, draft = models("random", 3)
    tree = DraftTree.chain(length)
    expected = tokens_per_round("block", tree, target, draft)
    for rule in ("gbv", "traversal", "otm-block"):
        assert tokens_per_round(rule, tree, target, draft) == pytest.approx(expected, abs=1e-12)
    assert expected >= tokens_per_round("single", tree, target, draft) - 1e-12


def test_equal_models_accept_everything(models) -> None:
    target, _ = models("random", 3)
    for rule in ("block", "gbv", "traversal", "otm-block"):
        tree = DraftTree.chain(2) if rule == "block" else DraftTree.paths(2, 2)
        assert tokens_per_round(rule, tree, target, target) == pytest.approx(3, abs=1e-12)


def test_stopping_at_the_first_failure_is_found(monkeypatch, models, distance) -> None:
    """A block that stops at the first node to fail must be found to be biased: all nodes have to be tested."""

    def select(drawn: Round, chance):
        class InOrder:
            def first(self, node, deepest_first_BL):
                failed_BL = 1 - deepest_first_BL.flip(1)
                return deepest_first_BL.shape[1] - chance.first(node, failed_BL)

            def pick(self, *arguments):
                return chance.pick(*arguments)

        return RULES["block"].select(drawn, InOrder())

    monkeypatch.setitem(RULES, "broken", dataclasses.replace(RULES["block"], select=select))
    target, draft = models("random", 3)
    assert distance(sequence_law("broken", DraftTree.chain(2), target, draft), text_law(target, 3)) > 1e-3


def test_traversal_with_another_parent_weight_is_found(monkeypatch, models, distance) -> None:
    def weight(weight_B1, surplus_B1):
        return surplus_B1.clamp(max=1)

    target, draft = models("random", 3)
    tree = DraftTree.paths(2, 2)
    assert distance(sequence_law("traversal", tree, target, draft), text_law(target, 3)) <= 1e-12
    monkeypatch.setattr(traversal, "pass_chance", weight)
    assert distance(sequence_law("traversal", tree, target, draft), text_law(target, 3)) > 1e-3


def test_a_tree_accepted_as_a_block_keeps_more_than_token_by_token(models, proposed_once) -> None:
    found = {rule: 0.0 for rule in ("kseq", "otm", "gbv", "otm-block")}
    for seed in range(4):
        target, draft = models("random", 3, seed)
        for rule in found:
            found[rule] += tokens_per_round(rule, DraftTree.paths(2, 2), target, draft) / 4
        token = tokens_per_round("otm", DraftTree.branching((1, 2)), target, draft)
        assert tokens_per_round("otm-block", DraftTree.branching((1, 2)), target, draft) >= token - 1e-3
    assert found["otm-block"] > max(found["kseq"], found["otm"], found["gbv"]) + 0.01


@pytest.mark.parametrize("wrong", ["weights are not conditional", "texts that are spelt twice stay apart"])
def test_wrong_weights_of_a_tree_are_found(wrong: str, monkeypatch, models, distance, proposed_once) -> None:
    right = otm_block._merged

    def merged(text_BK, tokens_BK, share_BK):
        level = right(text_BK, tokens_BK, share_BK)
        place_BK = torch.arange(text_BK.shape[1]).expand_as(text_BK)
        if wrong == "texts that are spelt twice stay apart":
            return otm_block.Level(place_BK, share_BK)
        taken_BK = share_BK * (level.first_BK == place_BK)
        return otm_block.Level(level.first_BK, taken_BK)

    target, draft = models("random", 3)
    tree = DraftTree.paths(2, 2)
    assert distance(sequence_law("otm-block", tree, target, draft), text_law(target, 3)) <= 1e-12
    monkeypatch.setattr(otm_block, "_merged", merged)
    assert distance(sequence_law("otm-block", tree, target, draft), text_law(target, 3)) > 1e-3


def test_ties_without_a_rank_in_common_are_found(monkeypatch, models, distance) -> None:
    target, draft = constant(1, 1, 1), constant(1, 1, 2)
    tree = DraftTree.paths(2, 2)
    assert distance(sequence_law("gbv", tree, target, draft), text_law(target, 3)) <= 1e-12
    monkeypatch.setattr(gbv, "is_tied", lambda order, rank_B1: torch.zeros_like(rank_B1, dtype=torch.bool))
    assert distance(sequence_law("gbv", tree, target, draft), text_law(target, 3)) > 1e-3


def test_the_skewed_law_is_the_law_of_the_walked_path() -> None:
    """Compare ``d_skew`` at the root with the law of the largest of K tokens, from powers of the cumulative law."""
    target_V, draft_V = normalised(torch.tensor([[3.0, 1.0, 1.5]])), normalised(torch.tensor([[1.0, 1.0, 2.0]]))
    order, count = gbv.ranks(target_V, draft_V), 3
    one = torch.ones((1, 1), dtype=torch.float64)
    walk = gbv.Walk(torch.zeros(1), torch.ones((1, count)), 0 * one, one, one == 0)
    first_V = gbv._skewed(draft_V, order, walk)[0]
    by_rank = order.rank_BV[0].argsort()
    cdf = draft_V[0, by_rank].cumsum(0) ** count
    torch.testing.assert_close(first_V[by_rank], torch.diff(cdf, prepend=torch.zeros(1)), rtol=0, atol=1e-15)


def test_pass_chance_of_a_whole_weight_is_one() -> None:
    nothing = torch.zeros((1, 1), dtype=torch.float64)
    assert float(block.pass_chance(torch.ones((1, 1), dtype=torch.float64), nothing)) == 1
    assert float(block.pass_chance(torch.full((1, 1), 0.5, dtype=torch.float64), nothing)) == 0


def test_a_greedy_walk_over_more_paths_may_keep_less() -> None:
    """Of K drafts of one token, the walk takes that with the largest t / d, so ``sum min(t, d_skew)`` is accepted.

    Where the models are close that law leaves the target's as K grows: in the end it is the first token for certain.
    """
    target, draft = constant(28, 26, 24, 22), constant(1, 1, 1, 1)  # in the order of t / d, the largest first
    found = [tokens_per_round("gbv", DraftTree.paths(count, 1), target, draft) - 1 for count in (1, 2, 3, 4)]
    under_V = torch.tensor([0.75, 0.5, 0.25, 0.0], dtype=torch.float64)
    for count, accepted in zip((1, 2, 3, 4), found, strict=True):
        walked_V = (under_V + 0.25) ** count - under_V**count
        assert accepted == pytest.approx(float(torch.minimum(walked_V, target(())).sum()), abs=1e-12)
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0] - 0.3
    # Where the models are far apart, more paths help the walk to find the tokens that the target prefers.
    target, draft = constant(7, 1, 1, 1), constant(1, 3, 3, 3)
    found = [tokens_per_round("gbv", DraftTree.paths(count, 1), target, draft) - 1 for count in (1, 2, 3, 4)]
    assert found == sorted(found)
    assert found[-1] > found[0] + 0.2
