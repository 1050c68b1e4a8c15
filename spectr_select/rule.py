"""What a selection rule is: how it draws siblings, which trees it takes, how it selects."""

# B rows, M nodes with children, N tree nodes, P nodes with a draft law, V vocabulary, W nodes of a level.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from spectr_select.chance import Chance
from spectr_select.selection import Selection
from spectr_select.tree import DraftTree, Families


@dataclass(frozen=True, slots=True)
class Level:
    """The nodes of one depth, which are to be drawn.

    Attributes:
        draft_BMV: The draft's laws after those nodes above that have children.
        families: Their children.
        depth: The depth.
    """

    draft_BMV: torch.Tensor
    families: Families
    depth: int


@dataclass(frozen=True, slots=True)
class Round:
    """A drawn tree with its laws.

    Attributes:
        tree: The topology.
        tokens_BN: Token of every node, the root's first; int64.
        target_BNV: The target's law after every node.
        draft_BPV: The law that the children of node p were drawn from, for the ``tree.inner`` leading nodes.
    """

    tree: DraftTree
    tokens_BN: torch.Tensor
    target_BNV: torch.Tensor
    draft_BPV: torch.Tensor


@dataclass(frozen=True, slots=True)
class Rule:
    """A lossless selection rule.

    Attributes:
        name: Its name in ``RULES``.
        drawing: How siblings are drawn: ``iid``, ``without-replacement``, ``top`` or ``race``.
        draw: Draws the nodes of a level, ``(level, chance) -> tokens_BW``, family by family.
        select: Selects, ``(round, chance) -> Selection``.
        trees: Which trees it takes: ``any``, ``paths`` that meet at the root, or a single ``chain``.
    """

    name: str
    drawing: str
    draw: Callable[[Level, Chance], torch.Tensor]
    select: Callable[[Round, Chance], Selection]
    trees: Literal["any", "paths", "chain"] = "any"

    def check_tree(self, tree: DraftTree) -> None:
        """Refuse a tree that the rule cannot select from.

        Raises:
            ValueError: Naming the tree and the way out.
        """
        if self.trees == "chain" and not tree.is_chain:
            raise ValueError(
                f"Rule {self.name!r} takes a single chain of drafts; got the tree {tree.parents}. "
                "Use DraftTree.chain, or a rule of many drafts."
            )
        if self.trees == "paths" and not (tree.is_paths or tree.is_chain):
            raise ValueError(
                f"Rule {self.name!r} takes paths of one length that meet at the root; got the tree {tree.parents}. "
                "Use DraftTree.paths, or a rule that takes any tree."
            )
