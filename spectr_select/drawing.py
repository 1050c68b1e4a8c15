"""How the nodes of a level are drawn."""

# B rows, C children of one node, V vocabulary, W nodes of a level.
from __future__ import annotations

from collections.abc import Callable

import torch

from spectr_select.chance import Chance, Role
from spectr_select.law import outside
from spectr_select.rule import Level


def draw_iid(level: Level, chance: Chance) -> torch.Tensor:
    """Independent draws from the draft's law; tokens may repeat. [B, W]."""
    return chance.picks(level.families, level.draft_BMV)


def draw_distinct(level: Level, chance: Chance) -> torch.Tensor:
    """Draws without replacement, in their order. [B, W]."""
    if all(len(nodes) == 1 for nodes in level.families):  # one number each instead of a race of the whole vocabulary
        return draw_iid(level, chance)
    return by_family(level, lambda draft_BV, nodes: chance.order(nodes[0], draft_BV, len(nodes)))


def draw_top(level: Level, chance: Chance) -> torch.Tensor:
    """The most probable tokens, and one drawn from the rest of the law as the last. [B, W]."""
    return by_family(level, lambda draft_BV, nodes: _top(draft_BV, nodes, chance))


def by_family(level: Level, draw: Callable[[torch.Tensor, tuple[int, ...]], torch.Tensor]) -> torch.Tensor:
    """Draw the children of each node by themselves, ``(draft_BV, nodes) -> tokens_BC``."""
    return torch.cat([draw(level.draft_BMV[:, place], nodes) for place, nodes in enumerate(level.families)], 1)


def _top(draft_BV: torch.Tensor, nodes: tuple[int, ...], chance: Chance) -> torch.Tensor:
    top_BC = draft_BV.topk(len(nodes) - 1).indices
    chosen_BV = torch.zeros_like(draft_BV, dtype=torch.bool).scatter(1, top_BC, True)
    last_B = chance.pick(Role.DRAFT, nodes[-1], outside(draft_BV, chosen_BV))
    return torch.cat([top_BC, last_B[:, None]], 1)
