"""How the children of a node are drawn."""

# B rows, C children.
from __future__ import annotations

import torch

from spectr_select.chance import Chance
from spectr_select.rule import Siblings


def draw_iid(siblings: Siblings, chance: Chance) -> torch.Tensor:
    """Independent draws from the draft's law; tokens may repeat. [B, C]."""
    return chance.picks(siblings.nodes[0], siblings.draft_BV, len(siblings.nodes))
