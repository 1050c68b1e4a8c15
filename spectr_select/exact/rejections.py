"""The probability that recursive rejection sampling without replacement rejects all its drafts, as a sum.

After i rejections the residual is ``(t - c_i d)+ / F(c_i)``, where ``F(c) = sum (t - c d)+`` and ``c_0 = 0``. With m_i
the draft's weight on the tokens that were not rejected, the next draft x is rejected with probability
``(c_{i+1} d(x) - max(t(x), c_i d(x)))+ / F(c_i)``, where ``c_{i+1} = c_i + F(c_i) / m_i``. These sum to
``F(c_{i+1}) / F(c_i)`` over the tokens left, so the product of the sums telescopes: all k drafts are rejected with
probability ``E F(c_k)``, the mean over the sequences of rejected tokens, each drawn given that it is rejected.
"""

# I rejected tokens, M subsets of the heaviest tokens, N sequences of rejected tokens, V vocabulary.
from __future__ import annotations

import math
from dataclasses import dataclass

import torch

LARGEST = 1e300  # c, so that no product with it overflows
_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class Excess:
    """The function ``F(c) = sum (t - c d)+``, which is convex, falling and linear between the ratios t / d.

    Attributes:
        ratio_V: The ratios in ascending order; infinite for tokens that the draft does not offer.
        target_V: For each of them and for one after the last, the sum of t from there on.
        draft_V: The same sums of d.
    """

    ratio_V: torch.Tensor
    target_V: torch.Tensor
    draft_V: torch.Tensor

    @classmethod
    def of(cls, target_V: torch.Tensor, draft_V: torch.Tensor) -> Excess:
        """Return the function of two laws, float64 [V] with sum 1."""
        ratio_V, order_V = (target_V / draft_V).nan_to_num(torch.inf, posinf=torch.inf).sort()
        sums = (
            torch.nn.functional.pad(law_V[order_V].flip(0).cumsum(0).flip(0), (0, 1)) for law_V in (target_V, draft_V)
        )
        return cls(ratio_V, *sums)

    def at(self, scale_N: torch.Tensor) -> torch.Tensor:
        """Return F at these numbers c, which may have any shape."""
        first_N = torch.searchsorted(self.ratio_V, scale_N, right=True)
        return (self.target_V[first_N] - scale_N * self.draft_V[first_N]).clamp(min=0)

    def slope(self, scale_N: torch.Tensor) -> torch.Tensor:
        """Return D(c), the draft's weight on the tokens with ``t > c d``, by which F falls."""
        return self.draft_V[torch.searchsorted(self.ratio_V, scale_N, right=True)]

    def after(self, scale_N: torch.Tensor, left_N: torch.Tensor) -> torch.Tensor:
        """Return ``c + F(c) / m``, the number c after one more rejection."""
        return (scale_N + self.at(scale_N) / left_N).clamp(max=LARGEST)


@dataclass(frozen=True, slots=True)
class Sequences:
    """Sequences of rejected tokens.

    The draft's weight that they leave is not a difference from the total, which loses precision where little is left:
    which of the heaviest tokens are gone is a set of bits, and the others are few enough to be subtracted.

    Attributes:
        tokens_NI: The tokens.
        scale_N: The number c before the next draft.
        heavy_N: The set of those among the heaviest tokens that were rejected.
        light_N: The draft's weight left on the other tokens.
    """

    tokens_NI: torch.Tensor
    scale_N: torch.Tensor
    heavy_N: torch.Tensor
    light_N: torch.Tensor

    def __getitem__(self, rows: slice | torch.Tensor) -> Sequences:
        """Return some of the sequences."""
        return Sequences(self.tokens_NI[rows], self.scale_N[rows], self.heavy_N[rows], self.light_N[rows])


class Rejections:
    """All sequences in which k drafts can be rejected, for a pair of laws.

    Args:
        target_V: The target's law t, float64 with sum 1.
        draft_V: The draft's law d.
        k: The number of drafts; no more of them are tested than the draft offers tokens.
    """

    def __init__(self, target_V: torch.Tensor, draft_V: torch.Tensor, k: int) -> None:
        self.draft_V, order_V = draft_V.sort(descending=True)
        self.target_V = target_V[order_V]
        self.excess = Excess.of(self.target_V, self.draft_V)
        # What is no law offers no tokens; its acceptance is NaN, as under the other rules.
        self.drafts = max(1, min(k, int((draft_V > 0).sum())))
        heavy = self.drafts - 1
        rank_V = torch.arange(len(draft_V), device=draft_V.device)
        self.bit_V = torch.where(rank_V < heavy, 1 << rank_V.clamp(max=heavy), 0)
        gone_M = torch.arange(1 << heavy, device=draft_V.device)
        kept_MV = gone_M[:, None] & self.bit_V[:heavy] == 0
        self.heavy_M = (kept_MV * self.draft_V[:heavy]).sum(1)
        self.light = self.draft_V[heavy:].flip(0).sum()

    def chance(self) -> torch.Tensor:
        """Return the probability that all drafts are rejected, a scalar."""
        none_1 = torch.zeros(1, dtype=torch.int64, device=self.draft_V.device)
        start = Sequences(none_1[:, None][:, :0], none_1.double(), none_1, self.light[None])
        return self.chances(start, self.drafts)[0]

    def chances(self, found: Sequences, drafts: int) -> torch.Tensor:
        """Return the mean of ``F(c_k)`` over all continuations of each sequence by so many drafts; float64 [N]."""
        next_N = self.excess.after(found.scale_N, self.heavy_M[found.heavy_N] + found.light_N)
        if drafts == 1:
            return self.excess.at(next_N)
        mean_N = torch.zeros_like(next_N)
        size = max(1, _AT_ONCE // len(self.draft_V))
        for first in range(0, len(next_N), size):
            part = slice(first, first + size)
            longer, row_R, share_R = self.longer(found[part], next_N[part])
            mean_N[part].index_add_(0, row_R, share_R * self.chances(longer, drafts - 1))
        return mean_N

    def longer(self, found: Sequences, next_N: torch.Tensor) -> tuple[Sequences, torch.Tensor, torch.Tensor]:
        """Return the sequences with one more token, the row that each comes from, and its probability in this row."""
        floor_NV = torch.maximum(self.target_V, found.scale_N[:, None] * self.draft_V)
        weight_NV = (next_N[:, None] * self.draft_V - floor_NV).clamp(min=0).scatter(1, found.tokens_NI, 0)
        row_R, token_R = weight_NV.nonzero(as_tuple=True)
        before, bit_R = found[row_R], self.bit_V[token_R]
        tokens_RI = torch.cat([before.tokens_NI, token_R[:, None]], 1)
        light_R = before.light_N - torch.where(bit_R == 0, self.draft_V[token_R], 0)
        longer = Sequences(tokens_RI, next_N[row_R], before.heavy_N | bit_R, light_R)
        # The weights sum to F(next); divided by their own sum they are a law however little that is.
        return longer, row_R, weight_NV[row_R, token_R] / weight_NV.sum(1)[row_R]


def sequences(vocabulary: int, k: int) -> int:
    """Return how many sequences of k - 1 rejected tokens there are, at most."""
    return math.perm(vocabulary, min(k, vocabulary) - 1)
