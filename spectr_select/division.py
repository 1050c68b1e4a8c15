"""The division factor of K-SEQ (SpecTr, arXiv 2310.15141, section 5)."""

# B rows, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.law import normalised

_PASSES = 20


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

    rho is the fixed point of ``G(rho) = some_of(beta(rho), k)``, which grows with rho and lies above it left of the
    fixed point and below it on the right. So an evaluation at rho bounds the answer by G(rho), from the side on which
    rho lies. Bisection of the logarithm narrows the bracket, a fixed number of times: the host never waits.
    """
    k_B = k_B.clamp(min=1)
    low_B, high_B = torch.ones_like(k_B), k_B
    for _ in range(3 * _PASSES):
        rho_B = (low_B * high_B).sqrt()
        tests_B = some_of(torch.minimum(draft_BV, target_BV / rho_B[:, None]).sum(1), k_B)
        above_B = tests_B <= rho_B
        high_B = torch.where(above_B, tests_B.clamp(min=1).minimum(high_B), high_B)
        low_B = torch.where(above_B, low_B, tests_B.maximum(low_B))
    return (high_B * (1 + 1e-13)).minimum(k_B)
