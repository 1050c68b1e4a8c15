"""What a rule asks of randomness. ``Noise`` answers with pseudo-random numbers, the enumeration with every outcome."""

# B rows, C draws, K candidates, V vocabulary.
from __future__ import annotations

from typing import Protocol

import torch

from spectr_select.noise import Role


class Chance(Protocol):
    """Random decisions, of which a rule takes a fixed number in a fixed order."""

    def first(self, node: int, accept_BK: torch.Tensor) -> torch.Tensor:
        """Toss a coin for every candidate: index of the first success, K where none succeeds; int64 [B]."""
        ...

    def pick(self, role: Role, node: int, law_BV: torch.Tensor, needed_B: torch.Tensor | None = None) -> torch.Tensor:
        """Draw one token from every row's law; int64 [B]. Rows not needed may hold any law and get any token."""
        ...

    def picks(self, node: int, law_BV: torch.Tensor, count: int) -> torch.Tensor:
        """Draw ``count`` independent drafts, ``node`` the first of them, from every row's law; int64 [B, C]."""
        ...

    def order(self, node: int, law_BV: torch.Tensor, count: int) -> torch.Tensor:
        """Draw ``count`` distinct drafts one after the other, ``node`` the first of them; int64 [B, C].

        Once the law is used up the rest are the first tokens of weight zero.
        """
        ...

    def exponential(self, role: Role, node: int, count: int) -> torch.Tensor:
        """Exponential numbers of mean 1; float64 [B, C]. Not enumerable."""
        ...
