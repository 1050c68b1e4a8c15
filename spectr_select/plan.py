"""Token rules that toss a coin for every candidate and draw from a residual where all of them fail."""

# B rows, K candidates, V vocabulary.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from spectr_select.chance import Chance
from spectr_select.law import normalised
from spectr_select.noise import Role
from spectr_select.recursion import Step, TokenRule, bonus_by_pick


@dataclass(frozen=True, slots=True)
class Plan:
    """What a token rule does with given candidates.

    Attributes:
        accept_BK: Probability that a candidate is accepted once all before it were rejected.
        residual_BV: Law of the token where all are rejected; any scale.
    """

    accept_BK: torch.Tensor
    residual_BV: torch.Tensor


PlanOf = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Plan]


def token_rule(plan_of: PlanOf) -> TokenRule:
    """The token rule of ``plan_of(target_BV, draft_BV, tokens_BK, active_BK)``, whose laws are normalised float64."""

    def emit(step: Step, chance: Chance) -> torch.Tensor:
        target_BV, draft_BV = normalised(step.target_BV), normalised(step.draft_BV)
        plan = plan_of(target_BV, draft_BV, step.tokens_BK, step.active_BK)
        chosen_B = chance.first(step.first, plan.accept_BK)
        failed_B = chosen_B == step.tokens_BK.shape[1]
        drafted_B = step.tokens_BK.gather(1, chosen_B.clamp(max=step.tokens_BK.shape[1] - 1)[:, None])[:, 0]
        return torch.where(failed_B, chance.pick(Role.EMIT, step.depth, plan.residual_BV, failed_B), drafted_B)

    return TokenRule(emit, bonus_by_pick)


def columns(some_BK: torch.Tensor) -> list[torch.Tensor]:
    """One [B, 1] for every candidate."""
    return [some_BK[:, place : place + 1] for place in range(some_BK.shape[1])]


def ratio(wanted_BK: torch.Tensor, offered_BK: torch.Tensor) -> torch.Tensor:
    """Acceptance probability ``min(1, wanted / offered)``; 0 for what is not offered."""
    return torch.where(offered_BK > 0, wanted_BK / offered_BK, 0).clamp(max=1)
