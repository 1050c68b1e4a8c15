"""Traversal verification (arXiv 2505.12398): a tree of distinct siblings is tested from its leaves to its root.

The root has the weight 1, and a child x of a node with weight w has the weight ``min(1, w t(x) / d(x))``. Nodes are
tested in depth-first order, each after all its children. A node passes with its weight as probability, and the path to
the first node that passes is accepted. When a child x and all nodes below it have failed, the laws and the weight of
its parent change before the next child is looked at; ``_after_failure`` has the formula.
"""

# B rows, K children, V vocabulary.
from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from spectr_select.chance import Chance, Role
from spectr_select.drawing import draw_distinct
from spectr_select.law import surplus
from spectr_select.recursion import at
from spectr_select.rule import Round, Rule
from spectr_select.rules.block import pass_chance
from spectr_select.rules.rrs import Candidate, accept_chance, candidates, residual
from spectr_select.rules.rrsw import on_offer
from spectr_select.selection import Selection, selection_at
from spectr_select.tree import as_index

_LEAST, _MOST = 1e-200, 1e200


@dataclass(frozen=True, slots=True)
class Parent:
    """A node whose children are being tested.

    Attributes:
        target_BV: The target's law after the node, as it came; float64.
        draft_BV: The law that the node's children were drawn from, as it came; float64.
        weight_B1: The node's weight w.
        scale_B1: The number c of its target law ``(target - c draft)+``; 0 as long as no child has failed.
        left_B1: The sum of ``(target - c draft)+``.
    """

    target_BV: torch.Tensor
    draft_BV: torch.Tensor
    weight_B1: torch.Tensor
    scale_B1: torch.Tensor
    left_B1: torch.Tensor


@dataclass(frozen=True, slots=True)
class Kept:
    """The node that has passed.

    Attributes:
        node_B: The node of every row; 0 where none has passed yet, since the root is the last node to be tested.
        scale_B: The number c of that node's target law.
    """

    node_B: torch.Tensor
    scale_B: torch.Tensor


def _select(drawn: Round, chance: Chance) -> Selection:
    root_B = torch.zeros_like(drawn.tokens_BN[:, 0])
    kept = Kept(root_B, root_B.double())
    kept = _visit(0, torch.ones_like(kept.scale_B)[:, None], kept, drawn, chance)
    law_BV = at(drawn.target_BNV, kept.node_B)
    if drawn.tree.inner:
        draft_BV = at(drawn.draft_BPV, kept.node_B.clamp(max=drawn.tree.inner - 1))
        law_BV = residual(law_BV, draft_BV, kept.scale_B, torch.ones_like(kept.scale_B))
    return selection_at(drawn.tree, kept.node_B, chance.pick(Role.EMIT, 0, law_BV))


def _visit(node: int, weight_B1: torch.Tensor, kept: Kept, drawn: Round, chance: Chance) -> Kept:
    """Test all nodes below a node and then the node itself, in the rows where no node has passed yet."""
    children = [child for child, parent in enumerate(drawn.tree.parents) if parent == node]
    if not children:
        return _test(node, weight_B1, torch.zeros_like(weight_B1), kept, chance)
    parent = _untouched(node, weight_B1, drawn)
    for child, candidate in zip(children, _candidates(children, parent, drawn), strict=True):
        child_B1 = accept_chance(candidate, parent.scale_B1, parent.left_B1, parent.weight_B1)
        kept = _visit(child, child_B1, kept, drawn, chance)
        parent = _after_failure(parent, candidate)
    return _test(node, parent.weight_B1, parent.scale_B1, kept, chance)


def _untouched(node: int, weight_B1: torch.Tensor, drawn: Round) -> Parent:
    """Return a node none of whose children has failed yet."""
    target_BV, draft_BV = drawn.target_BNV[:, node].double(), drawn.draft_BPV[:, node].double()
    return Parent(target_BV, draft_BV, weight_B1, torch.zeros_like(weight_B1), target_BV.sum(1, keepdim=True))


def _candidates(children: list[int], parent: Parent, drawn: Round) -> list[Candidate]:
    """Return the tokens of a node's children, each seen after all children before it have failed."""
    tokens_BK = drawn.tokens_BN.index_select(1, as_index(children, drawn.tokens_BN.device))
    on_offer_BK, tested_BK = on_offer(parent.draft_BV, tokens_BK, torch.ones_like(tokens_BK, dtype=torch.bool))
    return candidates(parent.target_BV, parent.draft_BV, tokens_BK, on_offer_BK, tested_BK)


def _after_failure(parent: Parent, child: Candidate) -> Parent:
    """Return a node after its child x and all nodes below x have failed.

    The update of the paper, with ``S = sum (w t - d)+``, is

        t <- (w t - d)+ / S        w <- S / (S + 1 - w)        d <- d without x, normalised.

    Here ``t = (target - c draft)+ / left`` and ``d = draft / on_offer`` on the tokens that x was drawn from. So

        w t - d = w / left (target - (c + left / (w on_offer)) draft),

    which leaves t its form: c grows by ``left / (w on_offer)``, and ``S = w left' / left`` with left' the new sum. The
    new d is not formed here, because each child brings the sum ``on_offer`` that normalises its own d.
    """
    # The clamps keep a weight of zero from producing infinities and, from their differences, NaN.
    taken_B1 = (parent.left_B1 / (parent.weight_B1 * child.on_offer_B1).clamp(min=_LEAST)).clamp(max=_MOST)
    # A repeat or a filler was not drawn from d and is not tested, so it changes nothing.
    scale_B1 = torch.where(child.tested_B1, parent.scale_B1 + taken_B1, parent.scale_B1)
    left_B1 = surplus(parent.target_BV, parent.draft_BV, scale_B1[:, 0]).sum(1, keepdim=True)
    surplus_B1 = parent.weight_B1 * left_B1 / parent.left_B1.clamp(min=_LEAST)
    weight_B1 = torch.where(child.tested_B1, pass_chance(parent.weight_B1, surplus_B1), parent.weight_B1)
    return replace(parent, weight_B1=weight_B1, scale_B1=scale_B1, left_B1=left_B1)


def _test(node: int, weight_B1: torch.Tensor, scale_B1: torch.Tensor, kept: Kept, chance: Chance) -> Kept:
    open_B = kept.node_B == 0
    passed_B = open_B & (chance.first(node, weight_B1 * open_B[:, None]) == 0)
    return Kept(torch.where(passed_B, node, kept.node_B), torch.where(passed_B, scale_B1[:, 0], kept.scale_B))


TRAVERSAL = Rule(name="traversal", drawing="without-replacement", draw=draw_distinct, select=_select)
