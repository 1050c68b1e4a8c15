"""Recursive rejection sampling (SpecInfer, arXiv 2305.09781): independent drafts, each tested against a residual r.

It starts with ``r = t`` and accepts a draft x with probability ``min(1, r(x) / d(x))``. Every rejection replaces r by
``(r - d)+``, normalised. After any number of rejections r is ``(t - c d)+``, normalised: with m the sum of
``(t - c d)+``, a further rejection turns c into ``c + m``. So a row needs to store the number c only.
"""

# B rows, K candidates, V vocabulary.
from __future__ import annotations

from dataclasses import dataclass

import torch

from spectr_select.coins import CoinRule, Coins, columns, ratio
from spectr_select.drawing import draw_iid
from spectr_select.law import or_else, surplus
from spectr_select.recursion import Step
from spectr_select.rule import Rule


@dataclass(frozen=True, slots=True)
class Candidate:
    """A drafted token x, seen after all its siblings before it were rejected.

    Attributes:
        wanted_B1: The target's weight t(x).
        offered_B1: The draft's weight d(x).
        on_offer_B1: The sum of the draft's weights over the tokens that x was drawn from.
        tested_B1: Whether x is tested in the row.
    """

    wanted_B1: torch.Tensor
    offered_B1: torch.Tensor
    on_offer_B1: torch.Tensor
    tested_B1: torch.Tensor


def toss(step: Step) -> Coins:
    """Return the coins of recursive rejection sampling."""
    draft_BV = step.draft_BV.double()
    return reject_in_turn(step, draft_BV, draft_BV.sum(1, keepdim=True).expand_as(step.active_BK), step.active_BK)


def reject_in_turn(step: Step, draft_BV: torch.Tensor, on_offer_BK: torch.Tensor, tested_BK: torch.Tensor) -> Coins:
    """Return the coins of candidates that are each drawn from what the draft still offers.

    Args:
        step: The choice.
        draft_BV: The draft's weights, float64.
        on_offer_BK: For each candidate, the sum of these weights over the tokens that it was drawn from.
        tested_BK: Which candidates are tested.
    """
    target_BV = step.target_BV.double()
    left_B1 = target_BV.sum(1, keepdim=True)
    scale_B1 = torch.zeros_like(left_B1)
    accepts: list[torch.Tensor] = []
    for candidate in candidates(target_BV, draft_BV, step.tokens_BK, on_offer_BK, tested_BK):
        if accepts:
            left_B1 = surplus(target_BV, draft_BV, scale_B1[:, 0]).sum(1, keepdim=True)
        accepts.append(accept_chance(candidate, scale_B1, left_B1))
        scale_B1 = torch.where(candidate.tested_B1, scale_B1 + left_B1 / candidate.on_offer_B1, scale_B1)
    return Coins(torch.cat(accepts, 1), scale_B1[:, 0])


def candidates(
    target_BV: torch.Tensor,
    draft_BV: torch.Tensor,
    tokens_BK: torch.Tensor,
    on_offer_BK: torch.Tensor,
    tested_BK: torch.Tensor,
) -> list[Candidate]:
    """Return the siblings one by one, in the order in which they are tested."""
    tables_BK = target_BV.gather(1, tokens_BK), draft_BV.gather(1, tokens_BK), on_offer_BK, tested_BK
    return [Candidate(*row) for row in zip(*map(columns, tables_BK), strict=True)]


def accept_chance(
    candidate: Candidate, scale_B1: torch.Tensor, left_B1: torch.Tensor, weight_B1: torch.Tensor | float = 1.0
) -> torch.Tensor:
    """Return ``min(1, w r(x) / q(x))``, the probability that a candidate is accepted; [B, 1].

    Args:
        candidate: The candidate x. Its law q is the draft's, normalised over the tokens that x was drawn from.
        scale_B1: The number c of what is left of the target, ``r = (t - c d)+ / left``.
        left_B1: The sum of ``(t - c d)+``.
        weight_B1: The weight w.
    """
    over_B1 = (candidate.wanted_B1 - scale_B1 * candidate.offered_B1).clamp(min=0) * candidate.on_offer_B1
    return ratio(weight_B1 * over_B1, left_B1 * candidate.offered_B1) * candidate.tested_B1


def residual(target_BV: torch.Tensor, draft_BV: torch.Tensor, scale_B: torch.Tensor, k_B: torch.Tensor) -> torch.Tensor:
    """Return what k rejections have left of the target, ``(t - c d)+``."""
    target_BV = target_BV.double()
    return or_else(surplus(target_BV, draft_BV.double(), scale_B * (k_B > 0)), target_BV)


RRS = Rule(name="rrs", drawing="iid", draw=draw_iid, select=CoinRule(toss, residual).select)
