"""Groups of tokens that sequences of rejected tokens take some tokens of, whichever these are."""

# G groups, H all their tokens, I counts of tokens, N cases, P tokens of a group.
from __future__ import annotations

import math
from dataclasses import dataclass

import torch

_CASES = 8192


@dataclass(frozen=True, slots=True)
class Groups:
    """Groups of tokens of about the same d.

    A case is told by its code, the number with the digits ``count // stride % radix``.

    Attributes:
        least_GI: The least d that I rejections leave of each group.
        most_GI: The most that they leave.
        gone_GI: The most that they take.
        limit_G: How many tokens of a group can be rejected.
        stride_G: The value of a group's digit.
    """

    least_GI: torch.Tensor
    most_GI: torch.Tensor
    gone_GI: torch.Tensor
    limit_G: torch.Tensor
    stride_G: torch.Tensor

    @classmethod
    def of(cls, parts: tuple[torch.Tensor, ...], rejections: int) -> Groups:
        """Return the groups with these d, each in descending order."""
        least_GI, most_GI, gone_GI = torch.zeros((3, len(parts), 1 + rejections)).to(parts[0])
        for group, part_P in enumerate(parts):
            heads_P, counts = torch.nn.functional.pad(part_P.cumsum(0), (1, 0)), 1 + min(len(part_P), rejections)
            least_GI[group, :counts] = tails(part_P)[:counts]
            most_GI[group, :counts] = heads_P.flip(0)[:counts]
            gone_GI[group, :counts] = heads_P[:counts]
        limit_G = torch.tensor([min(len(part_P), rejections) for part_P in parts], device=parts[0].device)
        stride_G = torch.nn.functional.pad((limit_G + 1).cumprod(0)[:-1], (1, 0), value=1)
        return cls(least_GI, most_GI, gone_GI, limit_G, stride_G)

    def counts(self, code_N: torch.Tensor) -> torch.Tensor:
        """Return how many tokens of each group a case took; [N, G]."""
        return code_N[:, None] // self.stride_G % (self.limit_G + 1)

    def codes(self, rejections: int) -> list[torch.Tensor]:
        """Return the codes of the cases after each number of rejections, in ascending order."""
        codes = [torch.zeros_like(self.limit_G[:1])]
        for _ in range(rejections):
            more_NG = codes[-1][:, None] + self.stride_G
            codes.append(torch.unique(more_NG[self.counts(codes[-1]) < self.limit_G]))
        return codes


def sizes_of(weight_H: torch.Tensor, draft_H: torch.Tensor, rejections: int) -> list[int]:
    """Return the sizes of as many groups as a bounded number of cases allows.

    Args:
        weight_H: How much a token matters.
        draft_H: The draft's weights, in descending order.
        rejections: The number of rejections.
    """
    sizes = [len(draft_H)]
    while (finer := _finer(sizes, weight_H, draft_H)) and _cases(finer, rejections) <= _CASES:
        sizes = finer
    return sizes


def _finer(sizes: list[int], weight_H: torch.Tensor, draft_H: torch.Tensor) -> list[int]:
    """Return sizes where the group of most cost, weight times range of d, is split into two of the least in all."""
    parts = list(zip(torch.split(weight_H, sizes), torch.split(draft_H, sizes), strict=True))
    costs = [float(weight_P.sum() * (draft_P[0] - draft_P[-1])) for weight_P, draft_P in parts]
    worst = costs.index(max(costs))
    if costs[worst] == 0:
        return []
    weight_P, draft_P = parts[worst]
    sum_P = weight_P.cumsum(0)
    cost_P = sum_P * (draft_P[0] - draft_P) + (sum_P[-1] - sum_P) * (draft_P.roll(-1) - draft_P[-1])
    first = 1 + int(cost_P[:-1].argmin())
    return [*sizes[:worst], first, sizes[worst] - first, *sizes[worst + 1 :]]


def _cases(sizes: list[int], rejections: int) -> float:
    """Return in how many ways tokens of groups of these sizes can be rejected; infinite if int64 has no code for each.

    The order in which they are rejected does not matter.
    """
    if math.prod(1 + min(size, rejections) for size in sizes) >= 1 << 63:
        return math.inf
    ways = [1] + rejections * [0]
    for size in sizes:
        ways = [sum(ways[max(0, total - size) : total + 1]) for total in range(rejections + 1)]
    return sum(ways)


def tails(draft_V: torch.Tensor) -> torch.Tensor:
    """Return what is left of a law in descending order without its first tokens, for every number of these."""
    return torch.nn.functional.pad(draft_V.flip(0).cumsum(0).flip(0), (0, 1))
