"""K-SEQ (SpecTr, arXiv 2310.15141, algorithm 2): independent drafts, tested in turn against a scaled-down target.

A draft x is accepted with probability ``min(1, t(x) / (rho d(x)))``. The division factor rho in [1, k] makes up for the
k chances that a token has to be drafted. The smallest rho for which the residual is nowhere negative accepts most.
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
    """Return the coins of K-SEQ, with k the number of active candidates of each row."""
    target_BV, draft_BV = precise(step.target_BV), precise(step.draft_BV)
    sums = target_BV.sum(1).double(), draft_BV.sum(1).double()
    # The factor is searched in the laws' precision, which is faster, and rounded up. A larger factor costs some
    # acceptance (``division`` says how much) and never exactness.
    scale_B = sums[0] / sums[1] * (1 + margin_of(target_BV))
    if step.tokens_BK.shape[1] > 1:
        k_B = step.active_BK.sum(1).double()
        scale_B = scale_B * division_of(target_BV, draft_BV, sums, k_B)
    wanted_BK = target_BV.gather(1, step.tokens_BK).double()
    offered_BK = draft_BV.gather(1, step.tokens_BK) * scale_B[:, None]
    return Coins(ratio(wanted_BK, offered_BK) * step.active_BK, scale_B)


def residual(target_BV: torch.Tensor, draft_BV: torch.Tensor, scale_B: torch.Tensor, k_B: torch.Tensor) -> torch.Tensor:
    """Return ``t - min(d, t / rho) * tests``, with the very scale that the coins were tossed with.

    A test accepts the token x with ``min(d(x), t(x) / rho)``, and ``tests`` is the expected number of tests among k.
    """
    target_BV, draft_BV = target_BV.double(), draft_BV.double()
    shared_BV = torch.minimum(target_BV, draft_BV * scale_B[:, None])
    offered_B = scale_B * draft_BV.sum(1)
    tests_B = some_of(shared_BV.sum(1) / offered_B, k_B)
    # The removed share is at most 1 for a lossless scale. It is kept below 1 so that a row in which no candidate can be
    # rejected, and whose residual is therefore zero, still has a law.
    removed_B = (tests_B * target_BV.sum(1) / offered_B).clamp(max=1 - 2.0**-52)
    return target_BV - shared_BV.mul_(removed_B[:, None])


KSEQ_TOKEN = CoinRule(toss, residual)
KSEQ = Rule(name="kseq", drawing="iid", draw=draw_iid, select=KSEQ_TOKEN.select)
