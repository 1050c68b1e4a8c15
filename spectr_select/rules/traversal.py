"""Traversal verification (arXiv 2505.12398): from the leaves of the tree to its root, siblings distinct.

The root has the weight 1, a child the weight ``min(1, w t(x) / d(x))`` of its parent's. Nodes are tested after all
their children and in their order; a node passes with its weight, and the first to pass is kept. When a child x and all
below it have failed, its parent's laws and weight become, with ``S = sum (w t - d)+``,

    t <- (w t - d)+ / S        w <- S / (S + 1 - w)        d <- d without x, normalised.
"""

# B rows, V vocabulary.
from __future__ import annotations

from dataclasses import dataclass

import torch

from spectr_select.chance import Chance
from spectr_select.coins import ratio
from spectr_select.drawing import draw_distinct
from spectr_select.law import normalised, or_else, without
from spectr_select.noise import Role
from spectr_select.rule import Round, Rule
from spectr_select.rules.block import pass_chance
from spectr_select.selection import Selection, selection_at


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept so far: the node of every row, 0 where none has passed, and the law of the token after it."""

    node_B: torch.Tensor
    law_BV: torch.Tensor


def _select(drawn: Round, chance: Chance) -> Selection:
    kept = Kept(torch.zeros_like(drawn.tokens_BN[:, 0]), drawn.target_BNV[:, 0].double())
    kept = _visit(0, torch.ones_like(kept.law_BV[:, :1]), kept, drawn, chance)
    return selection_at(drawn.tree, kept.node_B, chance.pick(Role.EMIT, 0, kept.law_BV))


def _visit(node: int, weight_B1: torch.Tensor, kept: Kept, drawn: Round, chance: Chance) -> Kept:
    """Test the nodes below and the node itself, in the rows where nothing has passed yet."""
    target_BV = normalised(drawn.target_BNV[:, node])
    children = [child for child, parent in enumerate(drawn.tree.parents) if parent == node]
    draft_BV = normalised(drawn.draft_BPV[:, node]) if children else target_BV
    for child in children:
        token_B1 = drawn.tokens_BN[:, child : child + 1]
        offered_B1 = draft_BV.gather(1, token_B1)
        kept = _visit(child, ratio(weight_B1 * target_BV.gather(1, token_B1), offered_B1), kept, drawn, chance)
        # What the law no longer offers is a repeat or a filler: nothing was tested, so nothing changes.
        tested_B1 = offered_B1 > 0
        surplus_BV = or_else((weight_B1 * target_BV - draft_BV).clamp(min=0), target_BV)
        weight_B1 = torch.where(tested_B1, pass_chance(weight_B1, target_BV, draft_BV), weight_B1)
        target_BV = torch.where(tested_B1, normalised(surplus_BV), target_BV)
        draft_BV = torch.where(tested_B1, without(draft_BV, token_B1), draft_BV)
    return _test(node, weight_B1, target_BV, kept, chance)


def _test(node: int, weight_B1: torch.Tensor, law_BV: torch.Tensor, kept: Kept, chance: Chance) -> Kept:
    open_B = kept.node_B == 0
    passed_B = open_B & (chance.first(node, weight_B1 * open_B[:, None]) == 0)
    return Kept(torch.where(passed_B, node, kept.node_B), torch.where(passed_B[:, None], law_BV, kept.law_BV))


TRAVERSAL = Rule(name="traversal", drawing="without-replacement", draw=draw_distinct, select=_select)
