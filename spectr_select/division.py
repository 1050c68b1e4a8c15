"""The division factor of K-SEQ (SpecTr, arXiv 2310.15141, section 5)."""

# B rows, J points, M points of a chord, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.law import check_pair, margin_of, overlap
from spectr_select.tree import constants

# The first points are these powers of k, and those around an estimate are the estimate times these powers of k.
_FIRST = (0.2, 0.5, 0.85)
_AROUND = (-0.03, 0.0, 0.03)
# The points of a refinement, between an upper bound (0) and the known point below it (1). Decoding uses no refinements,
# for each takes half as long as all before. On laws like those of a language model they would raise the acceptance by
# less than 5e-4 in the mean; where a few tokens hold nearly all of both laws, by up to 0.006, 0.016 and 0.053 for 2, 8
# and 64 drafts.
_TOWARDS = (0.0, 0.05, 0.4)
_REFINEMENTS = 16
_ALONG = tuple(cell / 128 for cell in range(1, 129))
_LEAST, _MOST = 1e-300, 1 - 2.0**-53


def some_of(beta_B: torch.Tensor, k_B: torch.Tensor) -> torch.Tensor:
    """Return ``(1 - (1 - beta)^k) / beta``, and k at beta = 0.

    This is the expected number of tosses when up to k coins of success probability beta are tossed until one succeeds.
    """
    beta_B = beta_B.clamp(_LEAST, _MOST)
    return -torch.expm1(k_B * torch.log1p(-beta_B)) / beta_B


def division_factor(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int | torch.Tensor) -> torch.Tensor:
    """Return the smallest lossless division factor.

    Args:
        target_BV: The target's laws t; weights of any float dtype.
        draft_BV: The draft's laws d.
        k: The number of independent drafts, at least 1; one number for all rows, or [B].

    Returns:
        rho in [1, k] with ``1 - (1 - beta)^k = rho * beta`` for ``beta = sum min(d, t / rho)``, rounded up: a smaller
        factor would bias the output, a larger one only costs acceptance. float64 [B].

    Raises:
        ValueError: The laws differ in shape, or k is below 1.
    """
    check_pair(target_BV, draft_BV)
    if isinstance(k, int) and k < 1:
        raise ValueError(f"k = {k} drafts; the division factor needs at least 1.")
    k_B = torch.as_tensor(k, dtype=torch.float64, device=target_BV.device).expand(len(target_BV))
    target_BV, draft_BV = target_BV.double(), draft_BV.double()
    sums = target_BV.sum(1), draft_BV.sum(1)
    return division_of(target_BV, draft_BV, sums, k_B, _REFINEMENTS)


def division_of(
    target_BV: torch.Tensor,
    draft_BV: torch.Tensor,
    sums: tuple[torch.Tensor, torch.Tensor],
    k_B: torch.Tensor,
    refinements: int = 0,
) -> torch.Tensor:
    """Return ``division_factor`` for weights whose sums are given, computed in the precision of the weights.

    With ``A(rho) = rho beta(rho) = sum min(rho d, t)`` the factor is the rho at which ``1 - A`` equals
    ``(1 - A / rho)^k``. A is concave, so each of its chords lies below it, and the rho that solves the equation with a
    chord instead of A is an upper bound of the factor. Points around an estimate shorten the chord and so tighten the
    bound. The number of points is fixed, so that the host never waits for the device.

    Args:
        target_BV: The target's weights.
        draft_BV: The draft's weights.
        sums: The sums of the target's and the draft's weights, float64 [B] each.
        k_B: The number of drafts, float64.
        refinements: How often the bound is tightened further.

    Returns:
        rho, float64 [B].
    """
    k_B1 = k_B.clamp(min=1)[:, None]
    log_B1, scale_B1 = k_B1.log(), (sums[0] / sums[1])[:, None]
    # Rounding may have enlarged an overlap, so it is reduced by the margin: a smaller overlap gives a larger factor.
    share_B1 = (1 - margin_of(target_BV)) / sums[0][:, None]

    def points(rho_BJ: torch.Tensor) -> torch.Tensor:
        return torch.stack([rho_BJ, overlap(target_BV, draft_BV, rho_BJ * scale_B1) * share_B1])

    known_2BJ = points(torch.exp(log_B1 * constants(_FIRST, k_B.device)))
    estimate_B1, _ = _meeting(known_2BJ, k_B1, bent=True)
    rho_BJ = estimate_B1 * torch.exp(log_B1 * constants(_AROUND, k_B.device))
    known_2BJ = torch.cat([known_2BJ, points(rho_BJ.clamp(min=1).minimum(k_B1))], 2)
    for _ in range(refinements):
        bound_B1, below_B1 = _meeting(known_2BJ, k_B1)
        rho_BJ = torch.lerp(bound_B1, below_B1.clamp(min=1), constants(_TOWARDS, k_B.device))
        known_2BJ = torch.cat([known_2BJ, points(rho_BJ)], 2)
    return _meeting(known_2BJ, k_B1)[0][:, 0]


def _meeting(known_2BJ: torch.Tensor, k_B1: torch.Tensor, bent: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rho at which the chord around the factor solves the equation, and the known rho below; [B, 1] each.

    Args:
        known_2BJ: Known points (rho, A).
        k_B1: The number of drafts.
        bent: Whether to replace the chord by a curve along which A approaches 1 exponentially, as it does for laws of a
            language model. The result is then closer to the factor, but it is no bound.
    """
    above_BJ = _is_above(known_2BJ[0], known_2BJ[1], k_B1)
    # The chord may begin at the origin, and it may end at k, where A is at least as large as at any known point.
    low_2B1 = torch.where(above_BJ, 0, known_2BJ).amax(2, keepdim=True)
    ceiling_2B1 = torch.stack([k_B1, known_2BJ[1].amax(1, keepdim=True)])
    (low_B1, low_a_B1), high_2B1 = low_2B1, torch.where(above_BJ, known_2BJ, ceiling_2B1).amin(2, keepdim=True)
    high_B1, high_a_B1 = high_2B1
    along_M = constants(_ALONG, k_B1.device)
    rho_BM = torch.lerp(low_B1, high_B1, along_M)
    if bent:
        a_BM = -torch.expm1(torch.lerp(torch.log1p(-low_a_B1), torch.log1p(-high_a_B1), along_M))
    else:
        a_BM = torch.lerp(low_a_B1, high_a_B1, along_M)
    met_BM = torch.where(_is_above(rho_BM, a_BM, k_B1), rho_BM, high_B1)
    return met_BM.amin(1, keepdim=True).clamp(min=1), low_B1


def _is_above(rho_BJ: torch.Tensor, a_BJ: torch.Tensor, k_B1: torch.Tensor) -> torch.Tensor:
    """Return whether rho is lossless, given its A: ``(1 - A)^(1 / k) < 1 - A / rho``."""
    return (1 - a_BJ).pow(1 / k_B1) < 1 - a_BJ / rho_BJ
