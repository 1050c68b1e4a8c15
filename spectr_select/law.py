"""Laws over the vocabulary: non-negative weights with a positive sum."""

# B rows, C draws, N nodes, V vocabulary.
from __future__ import annotations

import torch


def sample(law_BV: torch.Tensor, u_B: torch.Tensor) -> torch.Tensor:
    """Draw tokens by the inverse of the cumulative law.

    The weights are rounded to integers of about ``62 - log2 V`` bits: their running sums are then exact in whatever
    order they are added, so a batch or a device cannot change a draw, and a token of weight zero has an empty interval.

    Args:
        law_BV: Weights, not necessarily normalised; any float dtype.
        u_B: Uniform numbers in [0, 1), float64 [B] or [B, C] for C draws from each law.

    Returns:
        Tokens, int64, in the shape of ``u_B``. What is no law, as from logits that are not finite, gives some token.
    """
    running_BV = _integers(law_BV).cumsum(1)
    total_B1 = running_BV[:, -1:]
    u_BC = u_B if u_B.ndim == 2 else u_B[:, None]
    place_BC = (u_BC * total_B1).long().minimum(total_B1 - 1)
    token_BC = torch.searchsorted(running_BV, place_BC, right=True).clamp(max=law_BV.shape[1] - 1)
    return token_BC if u_B.ndim == 2 else token_BC[:, 0]


def _integers(law_BV: torch.Tensor) -> torch.Tensor:
    law_BV = law_BV.double()
    _, exponent_B1 = torch.frexp(law_BV.amax(1, keepdim=True))
    bits = 62 - (law_BV.shape[1] - 1).bit_length()
    return (law_BV * torch.exp2((bits - exponent_B1).double())).round().long()


def arrivals(law_BV: torch.Tensor, time_BV: torch.Tensor, count: int) -> torch.Tensor:
    """The first tokens to arrive, at times ``time / law``; int64 [B, C].

    With independent exponential times this draws without replacement. Tokens of weight zero never arrive; they stand
    at the end in their order, for a node to have a token even where the law has too few.
    """
    never_V = 1e300 * (1 + torch.arange(law_BV.shape[1], dtype=torch.float64, device=law_BV.device) / law_BV.shape[1])
    arrival_BV = torch.where(law_BV > 0, time_BV / law_BV.double(), never_V)
    return arrival_BV.topk(count, largest=False, sorted=True).indices


def normalised(law_BV: torch.Tensor) -> torch.Tensor:
    """The law in float64 with sum 1: float32 laws miss 1 by more than an exactness test allows."""
    law_BV = law_BV.double()
    return law_BV / law_BV.sum(1, keepdim=True)


def or_else(law_BV: torch.Tensor, other_BV: torch.Tensor) -> torch.Tensor:
    """The law, or the other one in rows where it has no weight.

    A residual has none after an event of probability zero, up to rounding. A token that the target allows is then the
    one answer that cannot be wrong.
    """
    return torch.where((law_BV > 0).any(1, keepdim=True), law_BV, other_BV)


def excess(target_BV: torch.Tensor, draft_BV: torch.Tensor) -> torch.Tensor:
    """What the target has over the draft, ``(t - d)+``; the target itself where that is nothing."""
    return or_else((target_BV - draft_BV).clamp(min=0), target_BV)


def without(law_BV: torch.Tensor, token_B1: torch.Tensor) -> torch.Tensor:
    """The law once a token is gone, normalised; all zero where it was the last."""
    rest_BV = law_BV.scatter(1, token_B1, 0)
    return rest_BV / rest_BV.sum(1, keepdim=True).clamp(min=torch.finfo(law_BV.dtype).tiny)


def outside(law_BV: torch.Tensor, chosen_BV: torch.Tensor) -> torch.Tensor:
    """The law outside chosen tokens, float64 with sum 1; uniform there where it has no weight."""
    return normalised(or_else(torch.where(chosen_BV, 0, law_BV), (~chosen_BV).to(law_BV.dtype)))


def check_pair(target_BV: torch.Tensor, draft_BV: torch.Tensor) -> None:
    """Refuse laws that are not two tables of floats of one shape.

    Raises:
        ValueError: Naming both shapes.
    """
    floats = target_BV.is_floating_point() and draft_BV.is_floating_point()
    if not floats or target_BV.ndim != 2 or target_BV.shape != draft_BV.shape:
        raise ValueError(
            "Target and draft laws must be floats of one shape [B, V]; "
            f"got {target_BV.dtype} {list(target_BV.shape)} and {draft_BV.dtype} {list(draft_BV.shape)}."
        )


def check_laws(law_BNV: torch.Tensor) -> None:
    """Refuse laws that hold a non-finite or negative weight or no positive one. Waits for the device.

    Raises:
        ValueError: Naming the first such row and node.
    """
    sound_BN = (torch.isfinite(law_BNV) & (law_BNV >= 0)).all(2) & (law_BNV > 0).any(2)
    if not bool(sound_BN.all()):
        row, node = (~sound_BN).nonzero()[0].tolist()
        raise ValueError(
            f"The law of row {row}, node {node} is no law: its weights must be finite, non-negative and not all zero. "
            "Check the logits of that row."
        )
