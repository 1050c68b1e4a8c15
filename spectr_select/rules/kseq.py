"""K-SEQ (SpecTr, arXiv 2310.15141, algorithm 2): independent drafts tested in turn against a scaled-down target.

A draft x is accepted with probability ``min(1, t(x) / (rho d(x)))``. The division factor rho spreads the target's mass
over the k chances to draw it; the smallest one that leaves no negative residual accepts most.
"""

# B rows, K candidates, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.coins import CoinRule, Coins, ratio
from spectr_select.division import division_of, some_of
from spectr_select.drawing import draw_iid
from spectr_select.law import margin_of, precise
from spectr_select.recursion import Step
from spectr_select.rule import Rule


def toss(step: Step) -> Coins:
    """Coins of K-SEQ for as many candidates as are active in the row."""
    target_BV, draft_BV = precise(step.target_BV), precise(step.draft_BV)
    sums = target_BV.sum(1).double(), draft_BV.sum(1).double()
    # In the laws' precision: rounded up, the scale costs acceptance that cannot be measured, and never exactness.
    scale_B = sums[0] / sums[1] * (1 + margin_of(target_BV))
    if step.tokens_BK.shape[1] > 1:
        k_B = step.active_BK.sum(1).double()
        scale_B = scale_B * division_of(target_BV, draft_BV, sums, k_B)
    wanted_BK = target_BV.gather(1, step.tokens_BK).double()
    offered_BK = draft_BV.gather(1, step.tokens_BK) * scale_B[:, None]
    return Coins(ratio(wanted_BK, offered_BK) * step.active_BK, scale_B)


def residual(target_BV: torch.Tensor, draft_BV: torch.Tensor, scale_B: torch.Tensor, k_B: torch.Tensor) -> torch.Tensor:
    """``t - min(d, t / rho) * tests``, from the very scale that the coins were tossed with.

    Each of the k tests removes its share of the target, weighted by the chance that it is reached at all.
    """
    target_BV, draft_BV = target_BV.double(), draft_BV.double()
    shared_BV = torch.minimum(target_BV, draft_BV * scale_B[:, None])
    offered_B = scale_B * draft_BV.sum(1)
    tests_B = some_of(shared_BV.sum(1) / offered_B, k_B)
    # At most 1 for a lossless scale; just below it something of the target is left even where nothing can fail.
    removed_B = (tests_B * target_BV.sum(1) / offered_B).clamp(max=1 - 2.0**-52)
    return target_BV - shared_BV.mul_(removed_B[:, None])


KSEQ_TOKEN = CoinRule(toss, residual)
KSEQ = Rule(name="kseq", drawing="iid", draw=draw_iid, select=KSEQ_TOKEN.select)
