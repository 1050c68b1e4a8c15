"""The division factor of K-SEQ (SpecTr, arXiv 2310.15141, section 5)."""

# B rows, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.law import check_pair, normalised

# Passes over the vocabulary: in a round some 1e-6 of acceptance (at worst 4e-5 in trials) is not worth more of them.
PASSES_IN_A_ROUND = 7
_PASSES = 20
_START = 0.1
_BEYOND = 0.1
_LEAST, _MOST = 1e-300, 1 - 2.0**-53


def some_of(beta_B: torch.Tensor, k_B: torch.Tensor) -> torch.Tensor:
    """``(1 - (1 - beta)^k) / beta``: expected tests until one of k coins of success beta succeeds; k at beta = 0."""
    beta_B = beta_B.clamp(_LEAST, _MOST)
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

    Raises:
        ValueError: The laws are not of one shape, or k is below 1.
    """
    check_pair(target_BV, draft_BV)
    if isinstance(k, int) and k < 1:
        raise ValueError(f"k = {k} drafts; a division factor takes 1 or more.")
    k_B = torch.as_tensor(k, dtype=torch.float64, device=target_BV.device).expand(len(target_BV))
    return division_of(normalised(target_BV), normalised(draft_BV), k_B, _PASSES)


def division_of(target_BV: torch.Tensor, draft_BV: torch.Tensor, k_B: torch.Tensor, passes: int) -> torch.Tensor:
    """``division_factor`` of normalised float64 laws; 1 for rows of fewer than two drafts.

    The root is the fixed point of ``G(rho) = some_of(beta(rho), k)``, which grows with rho and exceeds it on the left
    of the fixed point alone: every evaluation bounds the root by G, from the side on which rho lies. Newton's method
    picks the places, on ``log(1 - rho beta) - k log(1 - beta)``, whose root is the same and simple even where d = t.
    The number of passes is fixed, for the host to wait for nothing; what is left of the bracket costs acceptance alone.
    """
    k_B = k_B.clamp(min=1)
    ratio_BV, laws_B2V = target_BV / draft_BV, torch.stack([target_BV, draft_BV], 1)
    low_B, high_B, rho_B = torch.ones_like(k_B), k_B, 1 + _START * (k_B - 1)
    for _ in range(passes):
        # Tokens below the ratio rho give t / rho to beta, the others d.
        below_BV1 = (ratio_BV < rho_B[:, None]).double()[:, :, None]
        scaled_B, replaced_B = torch.bmm(laws_B2V, below_BV1)[:, :, 0].unbind(1)
        whole_B, shared_B = 1 - replaced_B, scaled_B / rho_B
        beta_B = (whole_B + shared_B).clamp(_LEAST, _MOST)
        missed_B = k_B * torch.log1p(-beta_B)
        fixed_B = -torch.expm1(missed_B) / beta_B
        above_B = fixed_B <= rho_B
        high_B = torch.where(above_B, fixed_B.minimum(high_B), high_B)
        low_B = torch.where(above_B, low_B, fixed_B.maximum(low_B))
        left_B = (1 - rho_B * beta_B).clamp(min=_LEAST)
        slope_B = k_B * shared_B / (rho_B * (1 - beta_B)) + whole_B / left_B
        step_B = (left_B.log() - missed_B) / slope_B
        # Newton's steps stay on one side of the root; a little beyond it, they move the upper end of the bracket too.
        next_B = rho_B + torch.add(step_B, step_B.abs(), alpha=_BEYOND)
        rho_B = torch.where((next_B > low_B) & (next_B < high_B), next_B, (low_B + high_B) / 2)
    return (high_B * (1 + 1e-13)).maximum(low_B).minimum(k_B)
