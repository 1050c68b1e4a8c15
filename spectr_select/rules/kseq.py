"""K-SEQ (SpecTr, arXiv 2310.15141, algorithm 2): independent drafts tested in turn against a scaled-down target.

A draft x is accepted with probability ``min(1, t(x) / (rho d(x)))``. The division factor rho spreads the target's mass
over the k chances to draw it; the smallest one that leaves no negative residual accepts most.
"""

# B rows, K candidates, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.division import PASSES_IN_A_ROUND, division_of, some_of
from spectr_select.drawing import draw_iid
from spectr_select.law import or_else
from spectr_select.plan import Plan, ratio, token_rule
from spectr_select.rule import Rule


def kseq_plan(
    target_BV: torch.Tensor, draft_BV: torch.Tensor, tokens_BK: torch.Tensor, active_BK: torch.Tensor
) -> Plan:
    """Coins and residual of K-SEQ for as many candidates as are active in the row."""
    k_B = active_BK.sum(1).double()
    single = tokens_BK.shape[1] == 1
    rho_B = torch.ones_like(k_B) if single else division_of(target_BV, draft_BV, k_B, PASSES_IN_A_ROUND)
    share_BV = torch.minimum(draft_BV, target_BV / rho_B[:, None])
    # Each of the k tests removes its share of the target, weighted by the chance that it is reached at all.
    tests_B = some_of(share_BV.sum(1), k_B)
    residual_BV = (target_BV - share_BV * tests_B[:, None]).clamp(min=0)
    accept_BK = ratio(share_BV.gather(1, tokens_BK), draft_BV.gather(1, tokens_BK)) * active_BK
    return Plan(accept_BK, or_else(residual_BV, target_BV))


KSEQ_TOKEN = token_rule(kseq_plan)
KSEQ = Rule(name="kseq", drawing="iid", draw=draw_iid, select=KSEQ_TOKEN.select)
