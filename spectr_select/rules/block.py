"""Block verification (arXiv 2403.10444): the drafts of one path are accepted together, as many as the block allows.

With ``w_0 = 1`` and ``w_i = min(1, w_{i-1} t(x_i) / d(x_i))`` node i passes with probability ``S_i / (S_i + 1 - w_i)``,
where ``S_i = sum (w_i t - d)+`` over the laws after it, and the last node with ``w_L``. The deepest node that passes is
kept, whatever became of those before it; the correction comes from its ``(w_i t - d)+``.
"""

# B rows, L drafts, V vocabulary.
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from spectr_select.chance import Chance
from spectr_select.coins import ratio
from spectr_select.drawing import draw_iid
from spectr_select.law import normalised, or_else
from spectr_select.noise import Role
from spectr_select.rule import Round, Rule
from spectr_select.selection import Selection, selection_at


@dataclass(frozen=True, slots=True)
class Link:
    """A node of a path with the draft below it.

    Attributes:
        target_BV: The target's law after the node; normalised float64.
        draft_BV: The law of the draft below it.
        token_B1: That draft.
    """

    target_BV: torch.Tensor
    draft_BV: torch.Tensor
    token_B1: torch.Tensor


def verify_block(path: Sequence[Link], bonus_BV: torch.Tensor, chance: Chance) -> tuple[torch.Tensor, torch.Tensor]:
    """How many drafts of a path are kept, and the law of the token after them.

    Args:
        path: The nodes above the drafts, the root first.
        bonus_BV: The target's law after the last draft.
        chance: Where the coins come from.

    Returns:
        Counts, int64 [B], and laws of any scale, float64 [B, V].
    """
    weight_B1 = torch.ones_like(bonus_BV[:, :1])
    weights, passes = [], []
    for link in path:
        weights.append(weight_B1)
        passes.append(pass_chance(weight_B1, link.target_BV, link.draft_BV))
        wanted_B1 = weight_B1 * link.target_BV.gather(1, link.token_B1)
        weight_B1 = ratio(wanted_B1, link.draft_BV.gather(1, link.token_B1))
    # The root passes anyway; the deepest node to pass is the first one from the end.
    deepest_first_BL = torch.cat([weight_B1, *reversed(passes[1:])], 1)
    count_B = len(path) - chance.first(1, deepest_first_BL)
    law_BV = bonus_BV
    for place, link in enumerate(path):
        here_BV = or_else((weights[place] * link.target_BV - link.draft_BV).clamp(min=0), link.target_BV)
        law_BV = torch.where((count_B == place)[:, None], here_BV, law_BV)
    return count_B, law_BV


def pass_chance(weight_B1: torch.Tensor, target_BV: torch.Tensor, draft_BV: torch.Tensor) -> torch.Tensor:
    """``S / (S + 1 - w)`` with ``S = sum (w t - d)+``; 1 at w = 1. [B, 1]."""
    surplus_B1 = (weight_B1 * target_BV - draft_BV).clamp(min=0).sum(1, keepdim=True)
    return torch.where(weight_B1 < 1, surplus_B1 / (surplus_B1 + 1 - weight_B1), 1)


def _select(drawn: Round, chance: Chance) -> Selection:
    tokens_BN, length = drawn.tokens_BN, drawn.tree.depth
    laws = [normalised(drawn.target_BNV[:, node]) for node in range(length + 1)]
    path = [
        Link(laws[node], normalised(drawn.draft_BPV[:, node]), tokens_BN[:, node + 1 : node + 2])
        for node in range(length)
    ]
    count_B, law_BV = verify_block(path, laws[-1], chance)
    return selection_at(drawn.tree, count_B, chance.pick(Role.EMIT, 0, law_BV))


BLOCK = Rule(name="block", drawing="iid", draw=draw_iid, select=_select, trees="chain")
