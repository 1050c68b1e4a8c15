"""Traversal verification (arXiv 2505.12398): from the leaves of the tree to its root, siblings distinct.

The root has the weight 1, a child the weight ``min(1, w t(x) / d(x))`` of its parent's. Nodes are tested after all
their children and in their order; a node passes with its weight, and the first to pass is kept. When a child x and all
below it have failed, its parent's laws and weight become, with ``S = sum (w t - d)+``,

    t <- (w t - d)+ / S        w <- S / (S + 1 - w)        d <- d without x, normalised.

The new t has nothing on x, so it keeps the form ``(t - c d)+``: one number c stands for it.
"""

# B rows, K children, V vocabulary.
from __future__ import annotations

from dataclasses import dataclass

import torch

from spectr_select.chance import Chance
from spectr_select.coins import columns, ratio
from spectr_select.drawing import draw_distinct
from spectr_select.law import surplus
from spectr_select.noise import Role
from spectr_select.recursion import at
from spectr_select.rule import Round, Rule
from spectr_select.rules.block import pass_chance
from spectr_select.rules.rrs import residual
from spectr_select.rules.rrsw import on_offer
from spectr_select.selection import Selection, selection_at
from spectr_select.tree import as_index

_LEAST, _MOST = 1e-200, 1e200


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept so far: the node of every row, 0 where none has passed, and its c."""

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
    """Test the nodes below and the node itself, in the rows where nothing has passed yet."""
    scale_B1 = torch.zeros_like(weight_B1)
    children = [child for child, parent in enumerate(drawn.tree.parents) if parent == node]
    if children:
        target_BV, draft_BV = drawn.target_BNV[:, node].double(), drawn.draft_BPV[:, node].double()
        tokens_BK = drawn.tokens_BN.index_select(1, as_index(children, weight_B1.device))
        wanted_BK, offered_BK = target_BV.gather(1, tokens_BK), draft_BV.gather(1, tokens_BK)
        left_B1 = target_BV.sum(1, keepdim=True)
        masses = (columns(some_BK) for some_BK in on_offer(draft_BV, tokens_BK, torch.ones_like(tokens_BK) > 0))
        for place, (child, on_offer_B1, tested_B1) in enumerate(zip(children, *masses, strict=True)):
            offered_B1 = offered_BK[:, place : place + 1]
            over_B1 = (wanted_BK[:, place : place + 1] - scale_B1 * offered_B1).clamp(min=0) * on_offer_B1
            child_B1 = ratio(weight_B1 * over_B1, left_B1 * offered_B1) * tested_B1
            kept = _visit(child, child_B1, kept, drawn, chance)
            # What the law no longer offers is a repeat or a filler: nothing was tested, so nothing changes.
            taken_B1 = (left_B1 / (weight_B1 * on_offer_B1).clamp(min=_LEAST)).clamp(max=_MOST)
            scale_B1 = torch.where(tested_B1, scale_B1 + taken_B1, scale_B1)
            before_B1, left_B1 = left_B1, surplus(target_BV, draft_BV, scale_B1[:, 0]).sum(1, keepdim=True)
            surplus_B1 = weight_B1 * left_B1 / before_B1.clamp(min=_LEAST)
            weight_B1 = torch.where(tested_B1, pass_chance(weight_B1, surplus_B1), weight_B1)
    return _test(node, weight_B1, scale_B1, kept, chance)


def _test(node: int, weight_B1: torch.Tensor, scale_B1: torch.Tensor, kept: Kept, chance: Chance) -> Kept:
    open_B = kept.node_B == 0
    passed_B = open_B & (chance.first(node, weight_B1 * open_B[:, None]) == 0)
    return Kept(torch.where(passed_B, node, kept.node_B), torch.where(passed_B, scale_B1[:, 0], kept.scale_B))


TRAVERSAL = Rule(name="traversal", drawing="without-replacement", draw=draw_distinct, select=_select)
