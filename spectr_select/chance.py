"""What a rule asks of randomness. ``Noise`` answers with pseudo-random numbers, the enumeration with every outcome."""

# B rows, C draws, K candidates, M families, V vocabulary, W nodes of a level.
from __future__ import annotations

from enum import IntEnum
from typing import Protocol

import torch

from spectr_select.tree import Families


class Role(IntEnum):
    """What a number is used for; numbers of different roles are independent. The race comes last."""

    DRAFT = 0
    ACCEPT = 1
    EMIT = 2
    RACE = 3


class Chance(Protocol):
    """Random decisions, of which a rule takes a fixed number in a fixed order."""

    def first(self, node: int, accept_BK: torch.Tensor) -> torch.Tensor:
        """Toss a coin for every candidate: index of the first success, K where none succeeds; int64 [B]."""
        ...

    def pick(self, role: Role, node: int, law_BV: torch.Tensor) -> torch.Tensor:
        """Draw one token from every row's law; int64 [B]."""
        ...

    def picks(self, families: Families, law_BMV: torch.Tensor) -> torch.Tensor:
        """Draw the children of several nodes independently from the law of each; int64 [B, W], family by family."""
        ...

    def order(self, node: int, law_BV: torch.Tensor, count: int) -> torch.Tensor:
        """Draw ``count`` distinct drafts one after the other, ``node`` the first of them; int64 [B, C].

        Once the law is used up the rest are the first tokens of weight zero.
        """
        ...

    def exponential(self, role: Role, node: int, count: int) -> torch.Tensor:
        """Exponential numbers of mean 1; float64 [B, C]. Not enumerable."""
        ...
