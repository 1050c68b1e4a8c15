"""Greedy drafting (optimal multi-draft speculative decoding, arXiv 2502.18779).

All siblings but the last are the draft's most probable tokens T; the last, z, is drawn from d', the draft's law outside
T. For siblings drawn in this way the selection is optimal, and it takes one coin: z is accepted with probability
``min(1, t(z) / d'(z))``. Otherwise the token is drawn from the law that is proportional to t on T and to ``(t - d')+``
elsewhere; a token of T then counts as accepted.
"""

# B rows, K candidates, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.chance import Chance, Role
from spectr_select.coins import ratio
from spectr_select.drawing import draw_top
from spectr_select.law import excess, normalised, outside
from spectr_select.recursion import Step, TokenRule, bonus_by_pick
from spectr_select.rule import Rule


def _emit(step: Step, chance: Chance) -> torch.Tensor:
    target_BV, draft_BV = normalised(step.target_BV), normalised(step.draft_BV)
    count_B1 = step.active_BK.sum(1, keepdim=True)
    last_BK = step.active_BK & (step.active_BK.cumsum(1) == count_B1)
    top_BK = (step.active_BK & ~last_BK).double()
    rest_BV = outside(draft_BV, torch.zeros_like(draft_BV).scatter_add(1, step.tokens_BK, top_BK) > 0)
    accept_BK = ratio(target_BV.gather(1, step.tokens_BK), rest_BV.gather(1, step.tokens_BK)) * last_BK
    chosen_B = chance.first(step.first, accept_BK)
    accepted_B = chosen_B < accept_BK.shape[1]
    # Where no candidate is active, nothing is taken off the target, so the token follows its own law.
    law_BV = excess(target_BV, torch.where(count_B1 > 0, rest_BV, 0))
    # In rows whose last candidate was accepted, the law is replaced by one that allows this token only. So a single
    # draw serves all rows, and the enumeration, which splits a row by the tokens that its law allows, does not split
    # them.
    last_B1 = step.tokens_BK.gather(1, last_BK.to(torch.uint8).argmax(1, keepdim=True))
    law_BV.mul_(~accepted_B[:, None]).scatter_add_(1, last_B1, accepted_B[:, None].double())
    return chance.pick(Role.EMIT, step.depth, law_BV)


GREEDY = Rule(name="greedy", drawing="top", draw=draw_top, select=TokenRule(_emit, bonus_by_pick).select)
