"""Gumbel-max list sampling (GLS, arXiv 2506.05632): an exponential race for every draft.

Draft n is the first token to arrive at the times ``S_n / d``. The emitted token is the first to arrive at
``min_n S_n / t``, with the minimum over the active drafts. With one draft this is the drafter-invariant coupling of
arXiv 2408.07978.
"""

# B rows, C children, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.chance import Chance, Role
from spectr_select.coins import columns
from spectr_select.drawing import by_family
from spectr_select.law import arrivals
from spectr_select.recursion import Step, TokenRule, bonus_by_pick
from spectr_select.rule import Level, Rule


def _draw(level: Level, chance: Chance) -> torch.Tensor:
    def first_arrivals(draft_BV: torch.Tensor, nodes: tuple[int, ...]) -> torch.Tensor:
        races = (chance.exponential(Role.DRAFT, node, draft_BV.shape[1]) for node in nodes)
        return torch.cat([arrivals(draft_BV, time_BV, 1) for time_BV in races], 1)

    return by_family(level, first_arrivals)


def _emit(step: Step, chance: Chance) -> torch.Tensor:
    time_BV = torch.full_like(step.target_BV, torch.inf, dtype=torch.float64)
    for node, active_B1 in enumerate(columns(step.active_BK.double()), start=step.first):
        race_BV = chance.exponential(Role.DRAFT, node, time_BV.shape[1])
        # Dividing by zero removes a race that is not active: no token ever arrives in it.
        time_BV = torch.minimum(time_BV, race_BV / active_B1)
    winner_B = (time_BV / step.target_BV.double()).argmin(1)
    return torch.where(step.active_BK.any(1), winner_B, bonus_by_pick(step.target_BV, step.depth, chance))


GLS = Rule(name="gls", drawing="iid", draw=_draw, select=TokenRule(_emit, bonus_by_pick).select)
