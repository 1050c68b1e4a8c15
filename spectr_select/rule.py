"""A selection rule: how it draws siblings, which trees it takes and how it selects."""

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
    """The nodes of one depth, as a rule is asked to draw their tokens.

    Attributes:
        draft_BMV: The draft's laws after the nodes of the level above that have children.
        families: The children of each of these nodes.
        depth: The depth of the children.
    """

    draft_BMV: torch.Tensor
    families: Families
    depth: int


@dataclass(frozen=True, slots=True)
class Round:
    """A drawn tree with its laws.

    Attributes:
        tree: The topology.
        tokens_BN: The token of every node, beginning with the root's; int64.
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
        name: The rule's name in ``RULES``.
        drawing: How siblings are drawn: ``iid``, ``without-replacement``, ``top`` or ``race``.
        draw: The function that draws the nodes of a level, ``(level, chance) -> tokens_BW``, family by family.
        select: The function that selects, ``(round, chance) -> Selection``.
        trees: The trees that the rule takes: ``any``, ``paths`` that meet at the root, or a single ``chain``.
        invariant: Whether the text does not depend on the drafts, given the noise (drafter invariance of ERSD, arXiv
            2504.15475). Such a rule reads no draft laws to select, and takes drafts that were drawn in any way.
    """

    name: str
    drawing: str
    draw: Callable[[Level, Chance], torch.Tensor]
    select: Callable[[Round, Chance], Selection]
    trees: Literal["any", "paths", "chain"] = "any"
    invariant: bool = False

    def check_tree(self, tree: DraftTree) -> None:
        """Check that the rule can select from a tree.

        Raises:
            ValueError: The rule does not take the tree; the message names a tree or a rule to use instead.
        """
        if self.trees == "chain" and not tree.is_chain:
            raise ValueError(
                f"Rule {self.name!r} takes a single chain of drafts; got the tree {tree.parents}. "
                "Use DraftTree.chain, or a rule that takes several drafts."
            )
        if self.trees == "paths" and not (tree.is_paths or tree.is_chain):
            raise ValueError(
                f"Rule {self.name!r} takes paths of one length that meet at the root; got the tree {tree.parents}. "
                "Use DraftTree.paths, or a rule that takes any tree."
            )
