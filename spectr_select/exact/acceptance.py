"""The exact probability that a rule for one token accepts a draft, or bounds on it."""

# B rows, J and V vocabulary, Q nodes of a quadrature.
from __future__ import annotations

from collections.abc import Callable

import torch

from spectr_select.division import division_factor, some_of
from spectr_select.exact.quadrature import add_coin, times
from spectr_select.exact.rejection_bounds import bounds
from spectr_select.exact.rejections import Rejections, sequences
from spectr_select.law import check_pair, excess, normalised, outside
from spectr_select.rules import RULES
from spectr_select.rules.otm import propose

MOST_SEQUENCES = 1 << 24


def acceptance(rule: str, target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Return the probability that the emitted token is one of the k drafts.

    Args:
        rule: A name of ``ACCEPTANCE``: a rule, or ``optimal`` or ``optimal-swor``, the most that any rule can accept of
            independent drafts and of drafts without replacement.
        target_BV: The target's laws t; weights of any float dtype.
        draft_BV: The draft's laws d.
        k: The number of drafts, at least 1. Where the support of d has fewer than k tokens, drafts without replacement
            are the support.

    Returns:
        alpha, float64 [B]. For ``race``, ``gls`` and ``optimal-swor`` it is an integral, that of ``race`` in time V^2;
        for the others it is a sum, that of ``rrsw`` over all sequences of k - 1 rejected tokens. That of ``kseq`` is
        for the smallest division factor; decoding takes one that accepts somewhat less (see ``division``).

    Raises:
        ValueError: The acceptance of the rule is not known, k is not in the range for which it is (at most 1 for
            ``single`` and V for ``greedy``), ``rrsw`` has more than 2^24 sequences, or the laws differ in shape.
    """
    _check(rule, target_BV, draft_BV, k)
    if rule == "rrsw" and not _countable(target_BV.shape[1], k):
        raise ValueError(
            f"The acceptance of rule 'rrsw' is a sum over the sequences of {k - 1} rejected tokens, and of "
            f"{target_BV.shape[1]} tokens there are more than {MOST_SEQUENCES} of them. Use acceptance_bounds."
        )
    return ACCEPTANCE[rule](normalised(target_BV), normalised(draft_BV), k)


def acceptance_bounds(
    rule: str, target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return bounds on the probability that the emitted token is one of the k drafts.

    They are proven, and apart only for ``rrsw`` with too many sequences of rejected tokens for a sum. Such a pair of
    laws takes a second or a few.

    Args:
        rule: A name of ``ACCEPTANCE``.
        target_BV: The target's laws t; weights of any float dtype.
        draft_BV: The draft's laws d.
        k: The number of drafts, as for ``acceptance``.

    Returns:
        The lower and the upper bound, float64 [B]. Both are ``acceptance`` where that is known.

    Raises:
        ValueError: As for ``acceptance``, but for any number of sequences.
    """
    _check(rule, target_BV, draft_BV, k)
    if rule != "rrsw" or _countable(target_BV.shape[1], k):
        alpha_B = acceptance(rule, target_BV, draft_BV, k)
        return alpha_B, alpha_B
    found = [bounds(*pair, k) for pair in zip(normalised(target_BV), normalised(draft_BV), strict=True)]
    least_B, most_B = (torch.stack(missed) for missed in zip(*found, strict=True))
    return 1 - most_B, 1 - least_B


def _countable(vocabulary: int, k: int) -> bool:
    return sequences(vocabulary, k) <= MOST_SEQUENCES


def _check(rule: str, target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> None:
    check_pair(target_BV, draft_BV)
    if rule in RULES and rule not in ACCEPTANCE:
        raise ValueError(
            f"Rule {rule!r} accepts several tokens together, so no token has an acceptance of its own. "
            "Count the accepted drafts of select, or enumerate them for a small vocabulary."
        )
    if rule not in ACCEPTANCE:
        raise ValueError(f"The acceptance of {rule!r} is not known; it is known of {', '.join(ACCEPTANCE)}.")
    most = {"single": 1, "greedy": target_BV.shape[1]}.get(rule)
    if k < 1 or (most is not None and k > most):
        raise ValueError(
            f"k = {k} drafts for rule {rule!r}, which takes {'1 or more' if most is None else f'1 to {most}'}."
        )


def _single(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    return torch.minimum(target_BV, draft_BV).sum(1)


def _kseq(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    k_B = torch.full_like(target_BV[:, 0], k)
    rho_B = division_factor(target_BV, draft_BV, k_B)
    beta_B = torch.minimum(draft_BV, target_BV / rho_B[:, None]).sum(1)
    return beta_B * some_of(beta_B, k_B)


def _rrs(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Return ``1 - prod (1 - sum min(r_i, d))``, with r_i the residual after i rejections."""
    missed_B = torch.ones_like(target_BV[:, 0])
    for _ in range(k):
        missed_B = missed_B * (1 - torch.minimum(target_BV, draft_BV).sum(1)).clamp(min=0)
        target_BV = normalised(excess(target_BV, draft_BV))
    return 1 - missed_B


def _rrsw(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    pairs = zip(target_BV, draft_BV, strict=True)
    return 1 - torch.stack([Rejections(target_V, draft_V, k).chance() for target_V, draft_V in pairs])


def _otm(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    proposal = propose(target_BV, draft_BV, torch.full_like(target_BV[:, 0], k))
    chance_BV = proposal.chance_BM.gather(1, proposal.bin_BV) * draft_BV
    return torch.minimum(chance_BV, target_BV).sum(1)


def _greedy(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Return ``t(T) + sum min(t, d')`` over the tokens outside T, the k - 1 most probable tokens of the draft."""
    top_BC = draft_BV.topk(k - 1).indices
    chosen_BV = torch.zeros_like(draft_BV, dtype=torch.bool).scatter(1, top_BC, True)
    return torch.where(chosen_BV, target_BV, torch.minimum(target_BV, outside(draft_BV, chosen_BV))).sum(1)


def _race(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Return the probability that fewer than k tokens are drafted before the token that the target's race emits.

    Given that token j wins the target's race at time s, token i comes before j in the draft's race with probability
    ``1 - exp(-s (t_j d_i / d_j - t_i)+)``, independently for every i. The time s is exponential of mean 1.
    """
    time_Q, weight_Q = times(1.0, target_BV.device)
    fewer_BJQK = time_Q.new_zeros((*target_BV.shape, len(time_Q), k))
    fewer_BJQK[..., 0] = 1
    speed_BJ = target_BV / draft_BV
    for target_B, draft_B in zip(target_BV.unbind(1), draft_BV.unbind(1), strict=True):
        lead_BJ = (speed_BJ * draft_B[:, None] - target_B[:, None]).clamp(min=0).nan_to_num(0, posinf=0)
        fewer_BJQK = add_coin(fewer_BJQK, -torch.expm1(-lead_BJ[..., None] * time_Q))
    won_BJ = (fewer_BJQK.sum(3) * (time_Q.neg().exp() * weight_Q)).sum(2)
    return (target_BV * won_BJ * (draft_BV > 0)).sum(1)


def _gls(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Return 1 minus the integral over y of ``k sum_j t_j (e^-y - e^(-y G_j)) (e^-y - d_j C_j(y))^(k - 1)``.

    Here ``y t_j`` is the earliest time of the emitted token j in the k races, and
    ``G_j = sum_i max(t_i, d_i t_j / d_j)`` is the rate at which j would lose the race of that time to another draft. In
    each of the other races j has a later time, which is integrated out: with the tokens sorted by t / d and D_i the
    draft's mass up to token i, this gives ``C_j(y) = sum_{i >= j} (e^(-y G_i) - e^(-y G_{i + 1})) / D_i``.
    """
    order_BV = _by_ratio(target_BV, draft_BV)
    target_BV, draft_BV = target_BV.gather(1, order_BV), draft_BV.gather(1, order_BV)
    mass_BV = draft_BV.cumsum(1)
    rest_BV = torch.nn.functional.pad(target_BV.flip(1).cumsum(1).flip(1)[:, 1:], (0, 1))
    rate_BV1 = ((target_BV / draft_BV).nan_to_num(torch.inf, posinf=torch.inf) * mass_BV + rest_BV)[:, :, None]
    time_Q, weight_Q = times(1.0, target_BV.device)
    lost_BVQ = (-rate_BV1 * time_Q).exp()
    fall_BVQ = lost_BVQ - torch.nn.functional.pad(lost_BVQ[:, 1:], (0, 0, 0, 1))
    later_BVQ = (fall_BVQ / mass_BV[:, :, None]).flip(1).cumsum(1).flip(1)
    none_Q = time_Q.neg().exp()
    others_BVQ = (none_Q - draft_BV[:, :, None] * later_BVQ).clamp(min=0) ** (k - 1)
    missed_BV = k * ((none_Q - lost_BVQ).clamp(min=0) * others_BVQ * weight_Q).sum(2)
    return 1 - (target_BV * missed_BV).sum(1)


def _optimal(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Return ``1 + min over H of t(H) - d(H)^k``, the value of a minimum cut.

    The best set H is a prefix of the tokens sorted by t / d, and all drafts are in H with probability ``d(H)^k``.
    """
    order_BV = _by_ratio(target_BV, draft_BV)
    cut_BV = target_BV.gather(1, order_BV).cumsum(1) - draft_BV.gather(1, order_BV).cumsum(1) ** k
    return 1 + cut_BV.amin(1).clamp(max=0)


def _optimal_swor(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Return the minimum cut of ``_optimal`` for drafts without replacement.

    All drafts are in H if the first k tokens to arrive in d's race are, that is, if k tokens of H arrive before the
    first token outside H, whose time is exponential of rate ``1 - d(H)``.
    """
    order_BV = _by_ratio(target_BV, draft_BV)
    target_BV, draft_BV = target_BV.gather(1, order_BV), draft_BV.gather(1, order_BV)
    # The mass outside H is summed from the last token backwards, to keep its precision where it is small.
    outside_BV = torch.cat([draft_BV.flip(1).cumsum(1).flip(1)[:, 1:], torch.zeros_like(draft_BV[:, :1])], 1)
    least_rate = float(torch.where(outside_BV > 0, outside_BV, 1).min())
    time_Q, weight_Q = times(least_rate, target_BV.device)
    fewer_BQK = time_Q.new_zeros((len(draft_BV), len(time_Q), k))
    fewer_BQK[..., 0] = 1
    cuts = []
    for draft_B, rate_B in zip(draft_BV.unbind(1), outside_BV.unbind(1), strict=True):
        fewer_BQK = add_coin(fewer_BQK, -torch.expm1(-draft_B[:, None] * time_Q))
        rate_B1 = rate_B[:, None]
        inside_B = ((1 - fewer_BQK.sum(2)) * rate_B1 * (-rate_B1 * time_Q).exp() * weight_Q).sum(1)
        cuts.append(torch.where(rate_B > 0, inside_B, 1))
    cut_BV = target_BV.cumsum(1) - torch.stack(cuts, 1)
    return 1 + cut_BV.amin(1).clamp(max=0)


def _by_ratio(target_BV: torch.Tensor, draft_BV: torch.Tensor) -> torch.Tensor:
    return (target_BV / draft_BV).nan_to_num(torch.inf).argsort(1)


ACCEPTANCE: dict[str, Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]] = {
    "single": _single,
    "kseq": _kseq,
    "rrs": _rrs,
    "rrsw": _rrsw,
    "greedy": _greedy,
    "race": _race,
    "gls": _gls,
    "otm": _otm,
    "optimal": _optimal,
    "optimal-swor": _optimal_swor,
}
