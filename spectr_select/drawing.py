"""Ways to draw the nodes of a level, shared by the rules."""

# B rows, C children of one node, V vocabulary, W nodes of a level.
from __future__ import annotations

from collections.abc import Callable

import torch

from spectr_select.chance import Chance, Role
from spectr_select.law import outside
from spectr_select.rule import Level


def draw_iid(level: Level, chance: Chance) -> torch.Tensor:
    """Draw independently from the draft's laws; siblings may repeat a token. [B, W]."""
    return chance.picks(level.families, level.draft_BMV)


def draw_distinct(level: Level, chance: Chance) -> torch.Tensor:
    """Draw siblings without replacement, in the order drawn. [B, W]."""
    # An only child takes one number, instead of a race with a number for every token of the vocabulary.
    if all(len(nodes) == 1 for nodes in level.families):
        return draw_iid(level, chance)
    return by_family(level, lambda draft_BV, nodes: chance.order(nodes[0], draft_BV, len(nodes)))


def draw_top(level: Level, chance: Chance) -> torch.Tensor:
    """Take the most probable tokens as siblings, and draw the last sibling from the rest of the law. [B, W]."""
    return by_family(level, lambda draft_BV, nodes: _top(draft_BV, nodes, chance))


def by_family(level: Level, draw: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]) -> torch.Tensor:
    """Draw the children of one node after the other with ``(draft_BV, nodes) -> tokens_BC``."""
    return torch.cat([draw(level.draft_BMV[:, index], nodes) for index, nodes in enumerate(level.families)], 1)


def _top(draft_BV: torch.Tensor, nodes: tuple[int, ...], chance: Chance) -> torch.Tensor:
    top_BC = draft_BV.topk(len(nodes) - 1).indices
    chosen_BV = torch.zeros_like(draft_BV, dtype=torch.bool).scatter(1, top_BC, True)
    last_B = chance.pick(Role.DRAFT, nodes[-1], outside(draft_BV, chosen_BV))
    return torch.cat([top_BC, last_B[:, None]], 1)
