"""``benchmarks/ersd.py``: rank laws, bins and trees from known rounds, and trees that depend on what was drawn."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from scripts import load_benchmark

from spectr_select import DraftTree, Noise, best_tree, draw, select

ROWS = 40_000


@pytest.fixture(scope="module")
def raced() -> ModuleType:
    return load_benchmark("papers/raced")


@pytest.fixture(scope="module")
def ersd() -> ModuleType:
    return load_benchmark("ersd")


def test_shares_that_rise_are_pooled(raced: ModuleType) -> None:
    assert raced.falling([5, 1, 3, 1], [10, 10, 10, 10]) == [0.5, 0.2, 0.2, 0.1]
    assert raced.falling([0, 1], [4, 4]) == [0.125, 0.125]
    assert raced.falling([3, 0], [6, 0]) == [0.5, 0.0]


def test_a_rank_law_counts_the_children_of_the_nodes_that_were_reached(raced: ModuleType) -> None:
    tree = DraftTree.branching((2, 2))  # the root's children are 1 and 2, those of 1 are 3 and 4
    accepted_SD = torch.tensor([[1, 3], [1, 4], [2, -1], [-1, -1]])
    # Seven nodes were reached that have children, or have not: the root four times, node 1 twice and node 2 once.
    assert raced.law_of_paths(tree, accepted_SD) == pytest.approx([3 / 7, 2 / 7])


def test_the_rank_law_of_positions_is_the_share_of_each_rank(raced: ModuleType) -> None:
    assert raced.law_of_ranks(torch.tensor([[0, 0], [1, 9]]), 3) == [0.5, 0.25, 0.0]


def test_bins_hold_as_many_positions_and_have_laws_of_their_own(raced: ModuleType) -> None:
    entropy_SL = torch.tensor([[0.1, 2.0], [0.2, 3.0]])
    texts = raced.Texts(torch.zeros((2, 2), dtype=torch.int64), torch.tensor([[0, 1], [0, 0]]), entropy_SL)
    laws = raced.LawsByEntropy.of(texts, 2)
    assert laws.edge_Q.tolist() == [pytest.approx(1.1)]
    assert [law[:2] for law in laws.law_QR] == [[1.0, 0.0], [0.5, 0.5]]


def test_the_tree_of_frequent_paths_sees_what_a_rank_law_does_not(raced: ModuleType) -> None:
    # Four texts in nine leave the first child at once and follow first children from there on.
    rank_WL = torch.tensor([[0, 0, 0]] * 5 + [[1, 0, 0]] * 4)
    assert raced.tree_of_ranks(rank_WL, 6) == DraftTree((-1, 0, 0, 1, 2, 3, 4))
    assert raced.tree_of_ranks(rank_WL, 6) != best_tree(raced.law_of_ranks(rank_WL), 6)
    assert raced.followed(DraftTree((-1, 0, 0, 1, 2, 3, 4)), rank_WL).tolist() == [4.0] * 9
    assert raced.followed(DraftTree.chain(2), rank_WL).tolist() == [3.0] * 5 + [1.0] * 4


def test_a_growing_tree_keeps_its_best_nodes_and_their_ancestors(raced: ModuleType) -> None:
    row = raced.Growing([7])
    row.offer(0, [10, 11, 12], [0.6, 0.3, 0.1])
    row = row.kept(2)
    row.offer(1, [20, 21], [0.9, 0.1])
    row = row.kept(2)
    assert (row.tokens, row.parents, row.level(2)) == ([7, 10, 20], [-1, 0, 1], [2])
    assert [row.follow(text) for text in ([10, 20, 5], [10, 21], [11])] == [3, 2, 1]


def test_ranks_along_a_text_give_the_rounds_of_every_tree(raced: ModuleType) -> None:
    pair, setting = raced.SimulatedPair(contexts=6), raced.Setting(1.0, 0.5)
    texts = raced.written(pair, setting, 1, 6)
    for tree in (DraftTree.chain(4), DraftTree.branching((3, 2, 1))):
        (drawn,) = pair.rounds(tree, "race", 1.0, setting.blend)
        found = drawn.select("race")
        assert torch.equal(raced.followed(tree, texts.rank_SL), 1.0 + found.count_B)
        text_B = torch.where(found.count_B > 0, drawn.tokens_BN.gather(1, found.accepted_BD[:, :1].clamp(0))[:, 0], -1)
        assert ((text_B == texts.token_SL[:, 0]) | (found.token_B == texts.token_SL[:, 0])).all()
    # With the same law in every bin, the trees that grow are the tree of that law.
    law = [0.55, 0.25, 0.1, 0.04]
    rows = raced.grown(pair, raced.LawsByEntropy(torch.tensor([2.0]), [law, law]), setting, 0, 0, 6)
    assert {tuple(row.parents) for row in rows} == {best_tree(law, 6).parents}
    counts = [row.follow(text) for row, text in zip(rows, texts.token_SL.tolist(), strict=True)]
    assert counts == raced.followed(best_tree(law, 6), texts.rank_SL).tolist()


@pytest.mark.parametrize(
    ("rule", "depends_on", "exact"),
    [
        ("race", "the first sibling", True),
        ("race", "its own token", True),
        ("rrs", "the first sibling", True),
        ("rrs", "its own token", False),
        ("rrsw", "the first sibling", True),
        ("rrsw", "its own token", False),
        ("kseq", "the first sibling", False),
    ],
)
def test_what_a_second_sibling_may_depend_on(rule: str, depends_on: str, exact: bool) -> None:
    target_V, draft_V = torch.tensor([0.2, 0.4, 0.4]), torch.tensor([0.6, 0.3, 0.1])
    zero_B, draft_B1V = torch.zeros(ROWS, dtype=torch.int64), draft_V.expand(ROWS, 1, 3)
    noise, both = Noise(torch.arange(ROWS), zero_B), DraftTree.paths(2, 1)
    tokens_BN = torch.cat([zero_B[:, None], draw(rule, both, 1, draft_B1V, noise)], 1)
    emitted = []
    for tree in (DraftTree.chain(1), both):
        coins = noise if rule == "race" else Noise(torch.arange(ROWS), zero_B)
        target_BNV = target_V.expand(ROWS, tree.size, 3)
        found = select(rule, tree, tokens_BN[:, : tree.size], target_BNV, draft_B1V, coins)
        accepted_B = tokens_BN.gather(1, found.accepted_BD.clamp(0))[:, 0]
        emitted.append(torch.where(found.count_B > 0, accepted_B, found.token_B))
    kept_B = tokens_BN[:, 1] == 0 if depends_on == "the first sibling" else tokens_BN[:, 2] == 1
    law_V = torch.where(kept_B, emitted[1], emitted[0]).bincount(minlength=3) / ROWS
    assert bool((law_V - target_V).abs().max() < 0.015) == exact


def test_shapes_have_the_drafts_and_rules_that_take_them(ersd: ModuleType) -> None:
    laws = {rule: [0.6, 0.2, 0.1] for rule in ersd.TREE_RULES}
    found = ersd.shapes(8, laws)
    assert {tree.drafts for _, tree, _ in found} == {8}
    assert [tree.depth for _, tree, _ in found[:3]] == [8, 1, 2]
    assert found[3][1] == best_tree(laws["race"], 8)


def test_trees_above_a_worth_have_the_drafts_on_average(ersd: ModuleType) -> None:
    sure, unsure = (ersd.Growing([7, 1, 2], [-1, 0, 1], [0, 1, 2], values) for values in ([1, 0.9, 0.8], [1, 0.5, 0.1]))
    half = ersd.Half(2, ersd.Texts(torch.tensor([[1, 2], [1, 2]]), *torch.zeros((2, 2, 2))), [sure, unsure])
    assert ersd.worth(half.rows, 1) == 0.8
    assert half.follow(half.trees(1)).tolist() == [2.0, 2.0]
    assert half.follow(half.trees_above(0.8)).tolist() == [3.0, 1.0]


def test_the_tree_of_a_row_is_that_of_its_roots_bin(ersd: ModuleType) -> None:
    rank_SL = torch.tensor([[0, 0], [0, 0], [1, 0]])
    texts = ersd.Texts(rank_SL, rank_SL, torch.tensor([[0.0, 0.0], [5.0, 0.0], [5.0, 0.0]]))
    laws = ersd.LawsByEntropy(torch.tensor([1.0]), [])
    assert ersd.by_root([DraftTree.chain(2), DraftTree.paths(2, 1)], laws, texts).tolist() == [3.0, 2.0, 2.0]
