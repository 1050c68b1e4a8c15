"""Optimal transport with membership cost (the OTM of SpecTr, arXiv 2310.15141) for independent drafts.

Every token x has a weight w(x), and one of the drafts is proposed, each with probability ``w(x) / sum of w`` over the
drafts. This is the outcome of an exponential race among the drafts with their weights as rates. So with
``phi(s) = sum d exp(-s w)`` over the vocabulary, a token x is proposed at all with probability

    a(x) = k d(x) * integral of w exp(-s w) phi(s)^(k - 1) ds.

The proposed token is accepted with probability ``min(1, t / a)``; otherwise the token is drawn from ``(t - a)+``. This
is lossless for any weights. The weights come from Sinkhorn's iteration, which multiplies them by ``t / a`` again and
again and approaches the optimal transport: proposing in proportion to weights is the form that the optimum has once an
entropy term is added to it. The best weight is a function of the ratio ``t / d``, so the tokens of a bin of this ratio
share a weight, and the cost of an iteration does not depend on the vocabulary.
"""

# B rows, K candidates, M bins, Q nodes of a quadrature, V vocabulary.
from __future__ import annotations

from dataclasses import dataclass

import torch

from spectr_select.coins import CoinRule, Coins
from spectr_select.drawing import draw_iid
from spectr_select.law import normalised
from spectr_select.recursion import Step
from spectr_select.rule import Rule
from spectr_select.tree import as_index, constants

# Bins of equal width in log(t / d), which cover ratios from 1/12 to 12; the outermost bins also take all ratios beyond.
_BINS, _WIDEST = 128, 2.5
_ITERATIONS = 12
# Weights lie between exp(_LOWEST) and 1.
_LOWEST = -26.0
# The quadrature over x with s = exp(x - exp(-2 - x)), made for up to a hundred drafts: its ends, and the distance of
# its nodes in the iteration and for the result, whose error is then no larger than that of rounding.
_BEGIN, _END = -5.8, 29.8
_COARSE, _FINE = 0.8, 0.2


@dataclass(frozen=True, slots=True)
class Proposal:
    """The probabilities with which tokens are proposed.

    Attributes:
        bin_BV: The bin of each token.
        weight_BM: The weight w of each bin.
        chance_BM: ``a / d`` of each bin.
    """

    bin_BV: torch.Tensor
    weight_BM: torch.Tensor
    chance_BM: torch.Tensor


def propose(target_BV: torch.Tensor, draft_BV: torch.Tensor, k_B: torch.Tensor, bins: int | None = None) -> Proposal:
    """Return weights close to the optimal ones and the exact chances that follow from them, for normalised laws.

    With fewer bins than the rule's own, the weights are less close and cost less.
    """
    bin_BV, wanted_BM, offered_BM = _binned(target_BV, draft_BV, bins or _BINS)
    wish_BM = (wanted_BM / offered_BM).clamp(1e-9, 1e9).log().nan_to_num(0)
    log_BM = best_BM = wish_BM - wish_BM.amax(1, keepdim=True)
    most_B1 = torch.zeros_like(log_BM[:, :1])
    for _ in range(_ITERATIONS):
        log_BM = (log_BM - log_BM.amax(1, keepdim=True)).clamp(min=_LOWEST)
        chance_BM = _chances(log_BM.exp(), offered_BM, k_B, _COARSE)
        accepted_B1 = torch.minimum(chance_BM * offered_BM, wanted_BM).sum(1, keepdim=True)
        best_BM = torch.where(accepted_B1 > most_B1, log_BM, best_BM)
        most_B1 = torch.maximum(accepted_B1, most_B1)
        log_BM = log_BM + wish_BM - chance_BM.clamp(min=1e-9).log()
    weight_BM = best_BM.clamp(min=_LOWEST).exp()
    return Proposal(bin_BV, weight_BM, _chances(weight_BM, offered_BM, k_B, _FINE))


def _binned(
    target_BV: torch.Tensor, draft_BV: torch.Tensor, bins: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the bin of each token [B, V], and the mass of target and draft in each bin [B, M] each."""
    vocabulary = target_BV.shape[1]
    if vocabulary <= bins:  # every token has a bin of its own
        return as_index(range(vocabulary), target_BV.device).expand(target_BV.shape), target_BV, draft_BV
    ratio_BV = (target_BV / draft_BV).float().log_().nan_to_num_(0, posinf=_WIDEST, neginf=-_WIDEST)
    bin_BV = ratio_BV.div_(2 * _WIDEST).add_(0.5).mul_(bins).clamp_(0, bins - 1).long()
    nothing_BM = target_BV.new_zeros((len(target_BV), bins))
    return bin_BV, nothing_BM.scatter_add(1, bin_BV, target_BV), nothing_BM.scatter_add(1, bin_BV, draft_BV)


def _chances(weight_BM: torch.Tensor, offered_BM: torch.Tensor, k_B: torch.Tensor, step: float) -> torch.Tensor:
    """Return ``a / d``, by the trapezoidal rule over x; [B, M]."""
    count = round((_END - _BEGIN) / step)
    node_Q = constants(tuple(_BEGIN + step * place for place in range(count + 1)), weight_BM.device)
    bend_Q = (-2 - node_Q).exp()
    time_Q, rise_Q = (node_Q - bend_Q).exp(), 1 + bend_Q
    alive_BQM = (-time_Q[:, None] * weight_BM[:, None]).exp_()
    others_BQ1 = (alive_BQM @ offered_BM[:, :, None]) ** (k_B[:, None, None] - 1).clamp(min=0)
    density_B1Q = (others_BQ1[:, :, 0] * (step * time_Q * rise_Q))[:, None]
    return k_B[:, None] * weight_BM * (density_B1Q @ alive_BQM)[:, 0]


def toss(step: Step) -> Coins:
    """Return coins that, tossed in turn, accept each candidate as often as it is proposed and then accepted."""
    target_BV, draft_BV, k_B = normalised(step.target_BV), normalised(step.draft_BV), step.active_BK.sum(1).double()
    proposal, tokens_BK = propose(target_BV, draft_BV, k_B), step.tokens_BK
    bin_BK = proposal.bin_BV.gather(1, tokens_BK)
    weight_BK = proposal.weight_BM.gather(1, bin_BK) * step.active_BK
    share_BK = weight_BK / weight_BK.sum(1, keepdim=True).clamp(min=1e-300)
    proposed_BK = proposal.chance_BM.gather(1, bin_BK) * draft_BV.gather(1, tokens_BK)
    wanted_BK = target_BV.gather(1, tokens_BK)
    accept_BK = share_BK * torch.where(wanted_BK < proposed_BK, wanted_BK / proposed_BK, 1)
    left_BK = 1 - accept_BK.cumsum(1) + accept_BK
    in_turn_BK = torch.where(accept_BK > 0, accept_BK / left_BK, 0).clamp(max=1)
    return Coins(in_turn_BK, torch.ones_like(k_B))


def residual(target_BV: torch.Tensor, draft_BV: torch.Tensor, scale_B: torch.Tensor, k_B: torch.Tensor) -> torch.Tensor:
    """Return ``(t - a)+``, with the weights computed once more, as for the coins."""
    target_BV, draft_BV = normalised(target_BV), normalised(draft_BV)
    proposal = propose(target_BV, draft_BV, k_B)
    proposed_BV = proposal.chance_BM.gather(1, proposal.bin_BV) * draft_BV
    # Slightly less than t is subtracted, so that a row in which no candidate can be rejected still has a law.
    return target_BV - torch.minimum(target_BV * (1 - 2.0**-52), proposed_BV)


OTM = Rule(name="otm", drawing="iid", draw=draw_iid, select=CoinRule(toss, residual).select)
