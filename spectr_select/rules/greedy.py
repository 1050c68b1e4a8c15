"""Greedy drafting (optimal multi-draft speculative decoding, arXiv 2502.18779).

All siblings but the last are the draft's most probable tokens T; the last is drawn from d', the draft's law outside T.
Selection is then optimal, and takes one coin: accept the last, z, with probability ``min(1, t(z) / d'(z))``, else emit
from t on T and ``(t - d')+`` elsewhere; a token of T counts as accepted.
"""

# B rows, K candidates, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.drawing import draw_top
from spectr_select.law import excess, outside
from spectr_select.plan import Plan, ratio, token_rule
from spectr_select.rule import Rule


def greedy_plan(
    target_BV: torch.Tensor, draft_BV: torch.Tensor, tokens_BK: torch.Tensor, active_BK: torch.Tensor
) -> Plan:
    """Coin of the last active candidate, and residual."""
    count_B1 = active_BK.sum(1, keepdim=True)
    last_BK = active_BK & (active_BK.cumsum(1) == count_B1)
    chosen_BV = torch.zeros_like(draft_BV).scatter_add(1, tokens_BK, (active_BK & ~last_BK).double()) > 0
    rest_BV = outside(draft_BV, chosen_BV)
    accept_BK = ratio(target_BV.gather(1, tokens_BK), rest_BV.gather(1, tokens_BK)) * last_BK
    return Plan(accept_BK, excess(target_BV, torch.where(count_B1 > 0, rest_BV, 0)))


GREEDY = Rule(name="greedy", drawing="top", draw=draw_top, select=token_rule(greedy_plan).select)
