"""The division factor of K-SEQ (SpecTr, arXiv 2310.15141, section 5)."""

# B rows, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.law import normalised

_PASSES = 16
_START = 1e-3
_BEYOND = 0.1
_TINY = 1e-9


def some_of(beta_B: torch.Tensor, k_B: torch.Tensor) -> torch.Tensor:
    """``(1 - (1 - beta)^k) / beta``: expected tests until one of k coins of success beta succeeds; k at beta = 0."""
    beta_B = beta_B.clamp(1e-300, 1 - 2.0**-53)
    return -torch.expm1(k_B * torch.log1p(-beta_B)) / beta_B


def division_factor(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int | torch.Tensor) -> torch.Tensor:
    """The smallest lossless division factor.

    Args:
        target_BV: The target's laws t; weights of any float dtype.
        draft_BV: The draft's laws d.
        k: Number of independent drafts, at least 1; one for all rows, or [B].

    Returns:
        rho in [1, k] with ``1 - (1 - beta)^k = rho * beta`` for ``beta = sum min(d, t / rho)``, rounded up: a smaller
        one would bias the output, a larger one costs acceptance alone. float64 [B].
    """
    k_B = torch.as_tensor(k, dtype=torch.float64, device=target_BV.device).expand(len(target_BV))
    return division_of(normalised(target_BV), normalised(draft_BV), k_B)


def division_of(target_BV: torch.Tensor, draft_BV: torch.Tensor, k_B: torch.Tensor) -> torch.Tensor:
    """``division_factor`` of normalised float64 laws; 1 for rows of fewer than two drafts.

    The root is the fixed point of ``G(rho) = some_of(beta(rho), k)``, which grows with rho and exceeds it on the left
    of the fixed point alone: every evaluation bounds the root by G, from the side on which rho lies. Newton's method
    picks the places, on ``k log(1 - beta) - log(1 - rho beta)``, whose root is the same and simple even where d = t.
    The number of passes is fixed, for the host to wait for nothing; what is left of the bracket costs acceptance alone.
    """
    k_B = k_B.clamp(min=1)
    ratio_BV = target_BV / draft_BV
    low_B, high_B = torch.ones_like(k_B), k_B
    rho_B = 1 + (k_B - 1) * _START
    for _ in range(_PASSES):
        scaled_BV = ratio_BV < rho_B[:, None]
        scaled_B = torch.where(scaled_BV, target_BV, 0).sum(1)
        whole_B = torch.where(scaled_BV, 0, draft_BV).sum(1)
        beta_B = whole_B + scaled_B / rho_B
        fixed_B = some_of(beta_B, k_B)
        above_B = fixed_B <= rho_B
        high_B = torch.where(above_B, fixed_B.maximum(low_B).minimum(high_B), high_B)
        low_B = torch.where(above_B, low_B, fixed_B.maximum(low_B).minimum(high_B))
        rho_B = _next(rho_B, beta_B, whole_B, scaled_B, k_B).nan_to_num(0)
        outside_B = (rho_B < low_B) | (rho_B > high_B)
        rho_B = torch.where(outside_B, 1 + ((low_B - 1 + _TINY) * (high_B - 1 + _TINY)).sqrt(), rho_B)
    return (high_B * (1 + 1e-14)).minimum(k_B)


def _next(
    rho_B: torch.Tensor, beta_B: torch.Tensor, whole_B: torch.Tensor, scaled_B: torch.Tensor, k_B: torch.Tensor
) -> torch.Tensor:
    miss_B, left_B = (1 - beta_B).clamp(min=1e-300), (1 - rho_B * beta_B).clamp(min=1e-300)
    slope_B = k_B * scaled_B / (rho_B**2 * miss_B) + whole_B / left_B
    step_B = (left_B.log() - k_B * miss_B.log()) / slope_B
    # Newton's steps approach the root from one side; a little further is what moves the upper end of the bracket too.
    return rho_B + step_B + _BEYOND * step_B.abs()
