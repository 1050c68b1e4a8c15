"""Recursive rejection sampling (SpecInfer, arXiv 2305.09781): independent drafts, each tested against what is left.

Every rejected draft takes the draft's law off the target: ``r <- (r - d)+``, normalised, starting from the target.
After any number of rejections r is ``(t - c d)+`` with ``c <- c + m`` and m its mass: one number stands for it.
"""

# B rows, K candidates, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.coins import CoinRule, Coins, columns, ratio
from spectr_select.drawing import draw_iid
from spectr_select.law import or_else, surplus
from spectr_select.recursion import Step
from spectr_select.rule import Rule


def toss(step: Step) -> Coins:
    """Coins of recursive rejection sampling."""
    draft_BV = step.draft_BV.double()
    return reject_in_turn(step, draft_BV, draft_BV.sum(1, keepdim=True).expand_as(step.active_BK), step.active_BK)


def reject_in_turn(step: Step, draft_BV: torch.Tensor, on_offer_BK: torch.Tensor, tested_BK: torch.Tensor) -> Coins:
    """Coins of candidates that are each drawn from what the draft still offers.

    Args:
        step: The choice.
        draft_BV: The draft's weights, float64.
        on_offer_BK: Their sum over the tokens that a candidate was drawn from.
        tested_BK: Which candidates are tested.
    """
    target_BV = step.target_BV.double()
    wanted_BK, offered_BK = target_BV.gather(1, step.tokens_BK), draft_BV.gather(1, step.tokens_BK)
    scale_B1, left_B1 = torch.zeros_like(wanted_BK[:, :1]), target_BV.sum(1, keepdim=True)
    accepts = []
    for place, (wanted_B1, offered_B1, on_offer_B1, tested_B1) in enumerate(
        zip(columns(wanted_BK), columns(offered_BK), columns(on_offer_BK), columns(tested_BK), strict=True)
    ):
        over_B1 = (wanted_B1 - scale_B1 * offered_B1).clamp(min=0) * on_offer_B1
        accepts.append(ratio(over_B1, left_B1 * offered_B1) * tested_B1)
        scale_B1 = torch.where(tested_B1, scale_B1 + left_B1 / on_offer_B1, scale_B1)
        if place + 1 < len(step.tokens_BK[0]):
            left_B1 = surplus(target_BV, draft_BV, scale_B1[:, 0]).sum(1, keepdim=True)
    return Coins(torch.cat(accepts, 1), scale_B1[:, 0])


def residual(target_BV: torch.Tensor, draft_BV: torch.Tensor, scale_B: torch.Tensor, k_B: torch.Tensor) -> torch.Tensor:
    """What is left of the target after so many rejections."""
    target_BV = target_BV.double()
    return or_else(surplus(target_BV, draft_BV.double(), scale_B * (k_B > 0)), target_BV)


RRS = Rule(name="rrs", drawing="iid", draw=draw_iid, select=CoinRule(toss, residual).select)
