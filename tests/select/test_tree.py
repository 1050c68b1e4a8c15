from __future__ import annotations

import pytest
import torch

from spectr_select import DraftTree


def test_chain() -> None:
    tree = DraftTree.chain(3)
    assert tree.parents == (-1, 0, 1, 2)
    assert (tree.size, tree.drafts, tree.depth, tree.inner, tree.is_chain) == (4, 3, 3, 3, True)


def test_root_alone() -> None:
    tree = DraftTree.chain(0)
    assert tree.parents == (-1,)
    assert tree.levels == (range(0, 1),)
    assert (tree.size, tree.drafts, tree.depth, tree.inner, tree.is_chain) == (1, 0, 0, 0, True)


def test_paths_are_numbered_level_by_level() -> None:
    tree = DraftTree.paths(3, 3)
    count = 3
    for depth in range(1, 4):
        for path in range(count):
            node = 1 + (depth - 1) * count + path
            assert tree.depths[node] == depth
            assert tree.parents[node] == (0 if depth == 1 else node - count)
    assert tree.inner == 7
    assert not tree.is_chain


def test_branching() -> None:
    tree = DraftTree.branching((2, 3))
    assert tree.parents == (-1, 0, 0, 1, 1, 1, 2, 2, 2)
    assert tree.levels == (range(0, 1), range(1, 3), range(3, 9))
    assert tree.inner == 3


def test_constructors_agree() -> None:
    assert DraftTree.branching((1, 1)) == DraftTree.chain(2) == DraftTree.paths(1, 2)
    assert hash(DraftTree.chain(2)) == hash(DraftTree((-1, 0, 1)))


def test_ancestors_of_a_ragged_tree() -> None:
    seen_NN = DraftTree((-1, 0, 0, 1, 1, 4)).ancestors("cpu")
    seen = [row.nonzero()[:, 0].tolist() for row in seen_NN]
    assert seen == [[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 4], [0, 1, 4, 5]]
    assert seen_NN.dtype == torch.bool


def test_paths_to_nodes() -> None:
    tree = DraftTree((-1, 0, 0, 1, 1, 4))
    assert tree.path(5) == (1, 4, 5)
    assert tree.path_table("cpu").tolist() == [
        [-1, -1, -1],
        [1, -1, -1],
        [2, -1, -1],
        [1, 3, -1],
        [1, 4, -1],
        [1, 4, 5],
    ]


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ((), "must start with -1"),
        ((0,), "must start with -1"),
        ((-1, -1), "must be an earlier node"),
        ((-1, 1), "must be an earlier node"),
        ((-1, 0, 1, 0), "level by level"),
    ],
)
def test_what_is_no_tree_is_refused(parents: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DraftTree(parents)


def test_counts_below_their_range_are_refused() -> None:
    with pytest.raises(ValueError, match="length of a draft tree is -1; it must be at least 0"):
        DraftTree.chain(-1)
    with pytest.raises(ValueError, match="count of a draft tree is 0; it must be at least 1"):
        DraftTree.paths(0, 2)
    with pytest.raises(ValueError, match="length of a draft tree is 0; it must be at least 1"):
        DraftTree.paths(2, 0)
