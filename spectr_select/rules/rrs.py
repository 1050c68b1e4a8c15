"""Recursive rejection sampling (SpecInfer, arXiv 2305.09781): independent drafts, each tested against what is left.

Every rejected draft takes the draft's law off the target: ``r <- (r - d)+``, normalised, starting from the target.
"""

# B rows, K candidates, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.drawing import draw_iid
from spectr_select.law import excess, normalised
from spectr_select.plan import Plan, columns, ratio, token_rule
from spectr_select.rule import Rule


def rrs_plan(target_BV: torch.Tensor, draft_BV: torch.Tensor, tokens_BK: torch.Tensor, active_BK: torch.Tensor) -> Plan:
    """Coins and residual of recursive rejection sampling."""
    left_BV, accepts = target_BV, []
    for token_B1, active_B1 in zip(columns(tokens_BK), columns(active_BK), strict=True):
        accepts.append(ratio(left_BV.gather(1, token_B1), draft_BV.gather(1, token_B1)) * active_B1)
        left_BV = torch.where(active_B1, normalised(excess(left_BV, draft_BV)), left_BV)
    return Plan(torch.cat(accepts, 1), left_BV)


RRS = Rule(name="rrs", drawing="iid", draw=draw_iid, select=token_rule(rrs_plan).select)
