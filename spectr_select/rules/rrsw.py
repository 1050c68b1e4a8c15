"""Recursive rejection sampling without replacement (RSD, arXiv 2402.14160; Sequoia, arXiv 2402.12374).

As ``rrs``, but siblings are distinct: a rejected token leaves the draft's law as well.
"""

# B rows, K candidates, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.drawing import draw_distinct
from spectr_select.law import excess, normalised, without
from spectr_select.plan import Plan, columns, ratio, token_rule
from spectr_select.rule import Rule


def rrsw_plan(
    target_BV: torch.Tensor, draft_BV: torch.Tensor, tokens_BK: torch.Tensor, active_BK: torch.Tensor
) -> Plan:
    """Coins and residual of recursive rejection sampling without replacement."""
    left_BV, accepts = target_BV, []
    for token_B1, active_B1 in zip(columns(tokens_BK), columns(active_BK), strict=True):
        offered_B1 = draft_BV.gather(1, token_B1)
        accepts.append(ratio(left_BV.gather(1, token_B1), offered_B1) * active_B1)
        # A token that the law no longer offers is a repeat or a filler: testing it would bias the output.
        tested_B1 = active_B1 & (offered_B1 > 0)
        left_BV = torch.where(tested_B1, normalised(excess(left_BV, draft_BV)), left_BV)
        draft_BV = torch.where(tested_B1, without(draft_BV, token_B1), draft_BV)
    return Plan(torch.cat(accepts, 1), left_BV)


RRSW = Rule(name="rrsw", drawing="without-replacement", draw=draw_distinct, select=token_rule(rrsw_plan).select)
