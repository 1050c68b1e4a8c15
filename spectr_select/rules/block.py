"""Block verification (arXiv 2403.10444): the drafts of one path are accepted up to the deepest node that passes.

Node i has the weight ``w_i = min(1, w_{i-1} t(x_i) / d(x_i))``, the root ``w_0 = 1``. With t and d the laws after node
i and ``S_i = sum (w_i t - d)+``, node i passes with probability ``S_i / (S_i + 1 - w_i)``, and the last node with
``w_L``. The path is accepted up to the deepest node that passes, even if nodes before it failed, and the correction is
drawn from that node's ``(w_i t - d)+``.
"""

# B rows, L drafts, V vocabulary.
from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from spectr_select.chance import Chance, Role
from spectr_select.coins import ratio
from spectr_select.drawing import draw_iid
from spectr_select.law import normalised
from spectr_select.recursion import at
from spectr_select.rule import Round, Rule
from spectr_select.rules.rrs import residual
from spectr_select.selection import Selection, selection_at


@dataclass(frozen=True, slots=True)
class Link:
    """A node of a path, with the draft below it.

    Attributes:
        target_BV: The target's law after the node; normalised float64.
        draft_BV: The law that the draft below the node was drawn from; normalised float64.
        token_B1: The token of that draft.
    """

    target_BV: torch.Tensor
    draft_BV: torch.Tensor
    token_B1: torch.Tensor


def verify_block(path: Iterable[Link], chance: Chance) -> tuple[torch.Tensor, torch.Tensor]:
    """Return how many drafts of a path are accepted, and the weight of the deepest accepted node.

    Args:
        path: The nodes that have a draft below them, beginning with the root; the iterable is read once.
        chance: The source of the coins.

    Returns:
        The numbers of accepted drafts, int64 [B], and the weights, float64 [B, 1].
    """
    weights: list[torch.Tensor] = []
    passes: list[torch.Tensor] = []
    for link in path:
        weights = weights or [torch.ones_like(link.target_BV[:, :1])]
        surplus_B1 = (weights[-1] * link.target_BV - link.draft_BV).clamp_(min=0).sum(1, keepdim=True)
        passes.append(pass_chance(weights[-1], surplus_B1))
        wanted_B1 = weights[-1] * link.target_BV.gather(1, link.token_B1)
        weights.append(ratio(wanted_B1, link.draft_BV.gather(1, link.token_B1)))
    # The root passes in any case, so it needs no coin. The deepest node to pass is the first when counted from the end.
    count_B = len(passes) - chance.first(1, torch.cat([weights[-1], *reversed(passes[1:])], 1))
    return count_B, torch.cat(weights, 1).gather(1, count_B[:, None])


def pass_chance(weight_B1: torch.Tensor, surplus_B1: torch.Tensor) -> torch.Tensor:
    """Return ``S / (S + 1 - w)``, the probability that a node passes, which is 1 for w = 1; [B, 1]."""
    return torch.where(weight_B1 < 1, surplus_B1 / (surplus_B1 + 1 - weight_B1), 1)


def _select(drawn: Round, chance: Chance) -> Selection:
    tokens_BN, target_BNV, draft_BPV = drawn.tokens_BN, drawn.target_BNV, drawn.draft_BPV
    length = drawn.tree.depth
    if not length:
        return selection_at(drawn.tree, tokens_BN[:, 0] * 0, chance.pick(Role.EMIT, 0, target_BNV[:, 0]))
    path = (
        Link(normalised(target_BNV[:, node]), normalised(draft_BPV[:, node]), tokens_BN[:, node + 1 : node + 2])
        for node in range(length)
    )
    count_B, weight_B1 = verify_block(path, chance)
    target_BV, draft_BV = at(target_BNV, count_B).double(), at(draft_BPV, count_B.clamp(max=length - 1)).double()
    scale_B = target_BV.sum(1) / (draft_BV.sum(1) * weight_B1[:, 0])
    law_BV = residual(target_BV, draft_BV, scale_B, (count_B < length).double())
    return selection_at(drawn.tree, count_B, chance.pick(Role.EMIT, 0, law_BV))


BLOCK = Rule(name="block", drawing="iid", draw=draw_iid, select=_select, trees="chain")
