"""Laws over the vocabulary: non-negative weights with a positive sum, which need not be 1."""

# B rows, C draws, G groups of S tokens, N nodes, R draws of all rows, V vocabulary.
from __future__ import annotations

import torch

# The number of tokens in a group: large enough to keep the number of groups small, and small enough for a float64 to
# hold the sum of a group exactly when every weight keeps 45 bits.
_GROUP = 256
_BITS = 53 - 8


def sample(law_BV: torch.Tensor, u_B: torch.Tensor) -> torch.Tensor:
    """Draw tokens by inverting the cumulative law: first a group of tokens, then a token of the group.

    The weights are rounded down to integers of up to 45 bits. Sums within a group are then exact in float64, and sums
    of groups in int64, in whatever order they are added. So neither the batch nor the device can change a draw, and a
    token of weight zero has an empty interval and is never drawn.

    Args:
        law_BV: Weights, not necessarily normalised; any float dtype.
        u_B: Uniform numbers in [0, 1), float64 [B] or [B, C] for C draws from each law.

    Returns:
        Tokens, int64, in the shape of ``u_B``. A row that is not a law, for instance because its logits were not
        finite, yields an arbitrary token of the vocabulary.
    """
    weight_BGS = _grouped_integers(law_BV)
    groups, size = weight_BGS.shape[1:]
    group_BG = weight_BGS.sum(2).long()
    running_BG = group_BG.cumsum(1)
    total_B1 = running_BG[:, -1:]
    point_BC = ((u_B if u_B.ndim == 2 else u_B[:, None]) * total_B1).long().minimum(total_B1 - 1)
    chosen_BC = torch.searchsorted(running_BG, point_BC, right=True).clamp(max=groups - 1)
    rest_BC = point_BC - (running_BG - group_BG).gather(1, chosen_BC)
    row_B1 = torch.arange(0, len(law_BV) * groups, groups, device=law_BV.device)[:, None]
    inside_RS = weight_BGS.flatten(0, 1).index_select(0, (row_B1 + chosen_BC).flatten()).cumsum(1)
    offset_R1 = torch.searchsorted(inside_RS, rest_BC.flatten()[:, None].double(), right=True).clamp(max=size - 1)
    token_BC = chosen_BC * size + offset_R1.view_as(chosen_BC)
    return token_BC.clamp(max=law_BV.shape[1] - 1).view_as(u_B)


def _grouped_integers(law_BV: torch.Tensor) -> torch.Tensor:
    """Return the weights as integers, in groups; float64 [B, G, S], the last group padded with zeros."""
    vocabulary = law_BV.shape[1]
    _, exponent_B1 = torch.frexp(law_BV.amax(1, keepdim=True).double())
    bits, size = min(_BITS, 62 - (vocabulary - 1).bit_length()), min(_GROUP, vocabulary)
    weight_BV = (law_BV.double() * torch.exp2((bits - exponent_B1).double())).floor_()
    if vocabulary % size:
        weight_BV = torch.nn.functional.pad(weight_BV, (0, -vocabulary % size))
    return weight_BV.view(len(weight_BV), -1, size)


def arrivals(law_BV: torch.Tensor, time_BV: torch.Tensor, count: int) -> torch.Tensor:
    """Return the first ``count`` tokens to arrive when a token arrives at ``time / law``; int64 [B, C].

    With independent exponential times this draws without replacement. Tokens of weight zero never arrive. They come
    last, in their order, so that every node gets a token even where the law has too few.
    """
    never_V = 1e300 * (1 + torch.arange(law_BV.shape[1], dtype=torch.float64, device=law_BV.device) / law_BV.shape[1])
    arrival_BV = torch.div(time_BV, law_BV.double()).minimum(never_V)
    return arrival_BV.topk(count, largest=False, sorted=True).indices


def precise(law_BV: torch.Tensor) -> torch.Tensor:
    """Return the law in at least float32."""
    return law_BV.float() if law_BV.element_size() < 4 else law_BV


def normalised(law_BV: torch.Tensor) -> torch.Tensor:
    """Return the law in float64 with sum 1: a float32 law misses 1 by more than the exactness tests allow."""
    law_BV = law_BV.double()
    return law_BV / law_BV.sum(1, keepdim=True)


def overlap(target_BV: torch.Tensor, draft_BV: torch.Tensor, scale_BJ: torch.Tensor) -> torch.Tensor:
    """Return ``sum min(t, scale d)`` for several scales, added up in the weights' precision; float64 [B, J]."""
    # All scales share one buffer, which stays in the processor's cache.
    shared_BV = torch.empty_like(draft_BV)
    found = [
        torch.minimum(torch.mul(draft_BV, scale_B1, out=shared_BV), target_BV, out=shared_BV).sum(1)
        for scale_B1 in scale_BJ.to(draft_BV.dtype)[:, :, None].unbind(1)
    ]
    return torch.stack(found, 1).double()


def margin_of(law_BV: torch.Tensor) -> float:
    """Return the relative error that a sum over the vocabulary may have in the law's precision."""
    return 8 * torch.finfo(law_BV.dtype).eps


def or_else(law_BV: torch.Tensor, other_BV: torch.Tensor) -> torch.Tensor:
    """Return the law, or the other law in rows where the first has no weight.

    A residual has no weight only after an event whose probability is zero up to rounding. To draw from the target
    itself is then safe, because whatever it yields is a token that the target allows.
    """
    return torch.where((law_BV > 0).any(1, keepdim=True), law_BV, other_BV)


def surplus(target_BV: torch.Tensor, draft_BV: torch.Tensor, scale_B: torch.Tensor) -> torch.Tensor:
    """Return ``(t - scale d)+``, by which the target's weights exceed a multiple of the draft's; float64."""
    return torch.addcmul(target_BV, draft_BV, scale_B[:, None], value=-1).clamp_(min=0)


def excess(target_BV: torch.Tensor, draft_BV: torch.Tensor) -> torch.Tensor:
    """Return ``(t - d)+``, by which the target exceeds the draft; the target itself where that is zero."""
    return or_else((target_BV - draft_BV).clamp(min=0), target_BV)


def without(law_BV: torch.Tensor, token_B1: torch.Tensor) -> torch.Tensor:
    """Return the law without a token, normalised; all zero where no other token has weight."""
    rest_BV = law_BV.scatter(1, token_B1, 0)
    return rest_BV / rest_BV.sum(1, keepdim=True).clamp(min=torch.finfo(law_BV.dtype).tiny)


def outside(law_BV: torch.Tensor, chosen_BV: torch.Tensor) -> torch.Tensor:
    """Return the law outside the chosen tokens, float64 with sum 1; uniform there if it has no weight there."""
    return normalised(or_else(torch.where(chosen_BV, 0, law_BV), (~chosen_BV).to(law_BV.dtype)))


def check_pair(target_BV: torch.Tensor, draft_BV: torch.Tensor) -> None:
    """Check that target and draft laws are two tables of floats of the same shape.

    Raises:
        ValueError: They are not; the message names both dtypes and shapes.
    """
    floats = target_BV.is_floating_point() and draft_BV.is_floating_point()
    if not floats or target_BV.ndim != 2 or target_BV.shape != draft_BV.shape:
        raise ValueError(
            "Target and draft laws must be floats of one shape [B, V]; "
            f"got {target_BV.dtype} {list(target_BV.shape)} and {draft_BV.dtype} {list(draft_BV.shape)}."
        )


def check_laws(law_BNV: torch.Tensor) -> None:
    """Check that all weights are finite and non-negative and that each law has a positive one.

    The check waits for the device, which is why ``select`` does not make it.

    Raises:
        ValueError: A law fails the check; the message names the first such row and node.
    """
    sound_BN = (torch.isfinite(law_BNV) & (law_BNV >= 0)).all(2) & (law_BNV > 0).any(2)
    if not bool(sound_BN.all()):
        row, node = (~sound_BN).nonzero()[0].tolist()
        raise ValueError(
            f"The law of row {row}, node {node} is no law: its weights must be finite, non-negative and not all zero. "
            "Check the logits of that row."
        )
