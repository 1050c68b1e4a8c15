"""The topology of a round's drafts: which draft continues which."""

# N nodes with the root, D depth.
from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch

from spectr_select.constants import constant

# For each of some nodes, the numbers of its children.
Families = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class DraftTree:
    """A rooted tree whose nodes are numbered level by level.

    Node 0 is the root, which stands for the last committed token; every other node is one drafted token. For example
    ``DraftTree((-1, 0, 0, 1))`` has the drafts 1 and 2 after the root and the draft 3 after draft 1.

    Attributes:
        parents: The parent of every node; ``parents[0] == -1`` and ``parents[n] < n``.
        depths: The depth of every node; the root has depth 0.
        levels: The node numbers of every depth; ``levels[0] == range(0, 1)``.
        inner: The number of leading nodes that need a draft law: 1 + the largest node that has children, and 0 for the
            root alone.

    Raises:
        ValueError: ``parents`` does not describe a tree, or its nodes are not numbered level by level.
    """

    parents: tuple[int, ...]
    depths: tuple[int, ...] = field(init=False, repr=False, compare=False)
    levels: tuple[range, ...] = field(init=False, repr=False, compare=False)
    inner: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "parents", tuple(self.parents))
        depths = _depths(self.parents)
        firsts = [depths.index(depth) for depth in range(depths[-1] + 1)]
        bounds = zip(firsts, [*firsts[1:], len(depths)], strict=True)
        object.__setattr__(self, "depths", depths)
        object.__setattr__(self, "levels", tuple(range(*bound) for bound in bounds))
        object.__setattr__(self, "inner", 1 + max(self.parents))

    @staticmethod
    def chain(length: int) -> DraftTree:
        """Return one path of ``length`` drafts; with ``chain(0)``, the root alone, a round is plain decoding."""
        return DraftTree.branching((1,) * _counted("length", length, 0))

    @staticmethod
    def paths(count: int, length: int) -> DraftTree:
        """Return paths that meet at the root only; at depth d path k has the node ``1 + (d - 1) * count + k``."""
        _counted("count", count, 1)
        return DraftTree.branching((count,) + (1,) * (_counted("length", length, 1) - 1))

    @staticmethod
    def branching(counts: Sequence[int]) -> DraftTree:
        """Return the tree in which every node of depth d has ``counts[d]`` children."""
        parents, level = [-1], range(1)
        for count in counts:
            children = [node for node in level for _ in range(_counted("count", count, 1))]
            level = range(len(parents), len(parents) + len(children))
            parents += children
        return DraftTree(tuple(parents))

    @property
    def size(self) -> int:
        """The number of nodes, including the root."""
        return len(self.parents)

    @property
    def drafts(self) -> int:
        """The number of drafted tokens: the nodes without the root."""
        return self.size - 1

    @property
    def depth(self) -> int:
        """The number of drafted tokens on the longest path."""
        return len(self.levels) - 1

    @property
    def is_chain(self) -> bool:
        """Whether the tree is a single path: no node has two children."""
        return self.depth == self.drafts

    @property
    def is_paths(self) -> bool:
        """Whether the tree is ``paths(count, length)`` for some count and length."""
        return self.depth > 0 and self == DraftTree.paths(len(self.levels[1]), self.depth)

    def path(self, node: int) -> tuple[int, ...]:
        """Return the nodes from the root's child down to ``node``, both included; empty for the root."""
        return _path(self.parents, node)

    def families(self, depth: int) -> Families:
        """Return the nodes of a level, grouped by their parents; a parent without children is left out."""
        level = itertools.groupby(sorted(self.levels[depth], key=self.parents.__getitem__), self.parents.__getitem__)
        return tuple(tuple(nodes) for _, nodes in level)

    def ancestors(self, device: torch.device | str) -> torch.Tensor:
        """Return which nodes each node sees: itself and its ancestors; bool [N, N]. Do not write to the result."""
        return _ancestors(self.parents, torch.device(device))

    def path_table(self, device: torch.device | str) -> torch.Tensor:
        """Return ``path`` of every node, padded with -1; int64 [N, D]. Do not write to the result."""
        return _path_table(self.parents, self.depth, torch.device(device))


def _counted(what: str, value: int, least: int) -> int:
    if value < least:
        raise ValueError(f"The {what} of a draft tree is {value}; it must be at least {least}.")
    return value


def _depths(parents: tuple[int, ...]) -> tuple[int, ...]:
    if not parents or parents[0] != -1:
        raise ValueError(
            f"parents must start with -1, the root's parent; got {parents}. The tree of a root alone is (-1,)."
        )
    depths = [0]
    for node, parent in enumerate(parents[1:], start=1):
        if not 0 <= parent < node:
            raise ValueError(f"parents[{node}] is {parent} in {parents}; it must be an earlier node, 0 to {node - 1}.")
        depths.append(depths[parent] + 1)
        if depths[node] < depths[node - 1]:
            raise ValueError(
                f"Node {node} of depth {depths[node]} follows a node of depth {depths[node - 1]} in {parents}; "
                "nodes must be numbered level by level. Renumber them by depth."
            )
    return tuple(depths)


def _path(parents: tuple[int, ...], node: int) -> tuple[int, ...]:
    path: list[int] = []
    while node > 0:
        path.append(node)
        node = parents[node]
    return tuple(reversed(path))


def as_index(nodes: Iterable[int], device: torch.device) -> torch.Tensor:
    """Return node numbers as an int64 tensor. Do not write to the result.

    The tensor is cached, because the host would wait for the copy to an accelerator at every call.
    """
    return _as_index(tuple(nodes), device)


@constant(64)
def constants(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Return numbers as a float64 tensor, cached as in ``as_index``. Do not write to the result."""
    return torch.tensor(values, dtype=torch.float64, device=device)


@constant(4096)
def _as_index(nodes: tuple[int, ...], device: torch.device) -> torch.Tensor:
    return torch.tensor(nodes, dtype=torch.int64, device=device)


@constant(256)
def _ancestors(parents: tuple[int, ...], device: torch.device) -> torch.Tensor:
    seen_NN = torch.eye(len(parents), dtype=torch.bool)
    seen_NN[:, 0] = True
    for node in range(1, len(parents)):
        seen_NN[node, list(_path(parents, node))] = True
    return seen_NN.to(device)


@constant(256)
def _path_table(parents: tuple[int, ...], depth: int, device: torch.device) -> torch.Tensor:
    rows = [_path(parents, node) for node in range(len(parents))]
    padded = [list(row) + [-1] * (depth - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(parents), depth).to(device)
