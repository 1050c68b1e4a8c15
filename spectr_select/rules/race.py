"""Exponential races (ERSD, arXiv 2504.15475): draft and target use the same noise.

Every text position has an exponential time E for each token. The siblings are the first tokens to arrive at the times
``E / d``, and the emitted token is the first to arrive at ``E / t``, which is Gumbel-max sampling of the target. So
whatever the draft, the tree and the batch are, the text is the one that plain decoding writes with this noise. There is
no ratio test and no residual.
"""

# B rows, C children, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.chance import Chance, Role
from spectr_select.drawing import by_family
from spectr_select.law import arrivals
from spectr_select.recursion import Step, TokenRule
from spectr_select.rule import Level, Rule


def _draw(level: Level, chance: Chance) -> torch.Tensor:
    time_BV = chance.exponential(Role.RACE, level.depth, level.draft_BMV.shape[2])

    def siblings(draft_BV: torch.Tensor, nodes: tuple[int, ...]) -> torch.Tensor:
        return _first(draft_BV, time_BV)[:, None] if len(nodes) == 1 else arrivals(draft_BV, time_BV, len(nodes))

    return by_family(level, siblings)


def _first(law_BV: torch.Tensor, time_BV: torch.Tensor) -> torch.Tensor:
    return (time_BV / law_BV).argmin(1)


def _winner(target_BV: torch.Tensor, depth: int, chance: Chance) -> torch.Tensor:
    return _first(target_BV, chance.exponential(Role.RACE, depth, target_BV.shape[1]))


def _emit(step: Step, chance: Chance) -> torch.Tensor:
    return _winner(step.target_BV, step.depth, chance)


RACE = Rule(name="race", drawing="race", draw=_draw, select=TokenRule(_emit, _winner).select, invariant=True)
