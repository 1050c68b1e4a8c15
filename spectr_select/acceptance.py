"""How often a token rule accepts, exactly."""

# B rows, V vocabulary.
from __future__ import annotations

from collections.abc import Callable

import torch

from spectr_select.division import division_factor, some_of
from spectr_select.law import normalised


def acceptance(rule: str, target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Probability that the emitted token is one of the k drafts.

    Args:
        rule: A name of ``ACCEPTANCE``: rules, and ``optimal``, the best that any rule can do with independent drafts.
        target_BV: The target's laws t; weights of any float dtype.
        draft_BV: The draft's laws d.
        k: Number of drafts, at least 1.

    Returns:
        alpha, float64 [B].

    Raises:
        ValueError: Nothing is known of the rule's acceptance, or k is not positive or not 1 for ``single``.
    """
    if rule not in ACCEPTANCE:
        raise ValueError(f"The acceptance of {rule!r} is not known in closed form; it is of {', '.join(ACCEPTANCE)}.")
    if k < 1 or (rule == "single" and k != 1):
        raise ValueError(f"k = {k} drafts for rule {rule!r}, which takes {'1' if rule == 'single' else '1 or more'}.")
    return ACCEPTANCE[rule](normalised(target_BV), normalised(draft_BV), k)


def _kseq(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    k_B = torch.full_like(target_BV[:, 0], k)
    rho_B = division_factor(target_BV, draft_BV, k_B)
    beta_B = torch.minimum(draft_BV, target_BV / rho_B[:, None]).sum(1)
    return beta_B * some_of(beta_B, k_B)


def _optimal(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Min cut: ``1 + min over H of t(H) - d(H)^k``, where the best H is a prefix of the tokens sorted by t / d."""
    order_BV = (target_BV / draft_BV).nan_to_num(torch.inf).argsort(1)
    cut_BV = target_BV.gather(1, order_BV).cumsum(1) - draft_BV.gather(1, order_BV).cumsum(1) ** k
    return 1 + cut_BV.amin(1).clamp(max=0)


ACCEPTANCE: dict[str, Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]] = {
    "single": _kseq,
    "kseq": _kseq,
    "optimal": _optimal,
}
