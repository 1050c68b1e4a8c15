"""How the children of a node are drawn."""

# B rows, C children, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.chance import Chance
from spectr_select.law import outside
from spectr_select.noise import Role
from spectr_select.rule import Siblings


def draw_iid(siblings: Siblings, chance: Chance) -> torch.Tensor:
    """Independent draws from the draft's law; tokens may repeat. [B, C]."""
    return chance.picks(siblings.nodes[0], siblings.draft_BV, len(siblings.nodes))


def draw_distinct(siblings: Siblings, chance: Chance) -> torch.Tensor:
    """Draws without replacement, in their order. [B, C]."""
    if len(siblings.nodes) == 1:  # one number instead of a race of the whole vocabulary
        return draw_iid(siblings, chance)
    return chance.order(siblings.nodes[0], siblings.draft_BV, len(siblings.nodes))


def draw_top(siblings: Siblings, chance: Chance) -> torch.Tensor:
    """The most probable tokens, and one drawn from the rest of the law as the last. [B, C]."""
    top_BC = siblings.draft_BV.topk(len(siblings.nodes) - 1).indices
    chosen_BV = torch.zeros_like(siblings.draft_BV, dtype=torch.bool).scatter(1, top_BC, True)
    last_B = chance.pick(Role.DRAFT, siblings.nodes[-1], outside(siblings.draft_BV, chosen_BV))
    return torch.cat([top_BC, last_B[:, None]], 1)
