from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spectr_select import DraftTree, best_tree, expected_tokens, tokens_bound

GEOMETRIC = [0.7 * 0.3**rank for rank in range(40)]


def test_numbers_of_a_geometric_rank_law() -> None:
    assert expected_tokens(GEOMETRIC, DraftTree.chain(8)) == pytest.approx(3.19882, abs=5e-6)
    assert expected_tokens(GEOMETRIC, DraftTree.paths(8, 1)) == pytest.approx(1.99993, abs=5e-6)
    assert expected_tokens(GEOMETRIC, best_tree(GEOMETRIC, 8)) == pytest.approx(3.44517, abs=5e-6)
    assert tokens_bound(GEOMETRIC, 32000, 8) == pytest.approx(14.405, abs=5e-4)


@pytest.mark.parametrize("acceptance", [0.3, 0.8])
@pytest.mark.parametrize("length", [0, 1, 6])
def test_a_chain_is_a_geometric_sum(acceptance: float, length: int) -> None:
    expected = (1 - acceptance ** (length + 1)) / (1 - acceptance)
    assert expected_tokens([acceptance], DraftTree.chain(length)) == pytest.approx(expected, abs=1e-12)


def every_tree(drafts: int) -> set[DraftTree]:
    trees = set()
    for parents in itertools.product(*(range(node) for node in range(1, drafts + 1))):
        if list(parents) == sorted(parents):
            trees.add(DraftTree((-1, *parents)))
    return trees


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(
    weights=st.lists(st.integers(0, 20), min_size=1, max_size=4), missing=st.integers(1, 20), drafts=st.integers(0, 6)
)
def test_no_tree_of_as_many_drafts_is_better(weights: list[int], missing: int, drafts: int) -> None:
    rank_law = [weight / (sum(weights) + missing) for weight in sorted(weights, reverse=True)]
    found = best_tree(rank_law, drafts)
    assert found.drafts == drafts
    best = max(expected_tokens(rank_law, tree) for tree in every_tree(drafts))
    assert expected_tokens(rank_law, found) == pytest.approx(best, abs=1e-12)


def test_a_sure_first_rank_makes_a_chain_and_even_ranks_a_bush() -> None:
    assert best_tree([1.0, 0.0], 5) == DraftTree.chain(5)
    assert best_tree([0.25] * 4, 4) == DraftTree.paths(4, 1)
    assert best_tree([0.9], 3) == DraftTree.chain(3)
    assert best_tree([0.5], 0) == DraftTree.chain(0)


def test_ranks_without_a_probability_count_nothing() -> None:
    assert expected_tokens([0.5], DraftTree.paths(3, 1)) == 1.5


@pytest.mark.parametrize("rank_law", [[], [0.2, 0.3], [0.5, -0.1], [0.7, 0.5], [float("nan")]])
def test_what_is_no_rank_law_is_refused(rank_law: list[float]) -> None:
    for call in (lambda: best_tree(rank_law, 2), lambda: expected_tokens(rank_law, DraftTree.chain(1))):
        with pytest.raises(ValueError, match="non-increasing list of probabilities"):
            call()


def test_other_arguments_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match="tree of -1 drafts"):
        best_tree([0.5], -1)
    with pytest.raises(ValueError, match=r"of sum 1; got the sum 0\.5"):
        tokens_bound([0.5], 100, 2)


def test_a_sure_rank_has_no_bound() -> None:
    assert tokens_bound([1.0], 100, 2) == float("inf")
