"""The random decisions that a rule may ask for.

Two classes answer: ``Noise`` with pseudo-random numbers, and ``exact.branches.Branches`` with every outcome in turn.
"""

# B rows, C draws, K candidates, M families, V vocabulary, W nodes of a level.
from __future__ import annotations

from enum import IntEnum
from typing import Protocol

import torch

from spectr_select.tree import Families


class Role(IntEnum):
    """The purpose of a random number; numbers of different roles are independent.

    ``RACE`` must come last: the tables of ``Noise`` hold numbers for all roles before it.
    """

    DRAFT = 0
    ACCEPT = 1
    EMIT = 2
    RACE = 3


class Chance(Protocol):
    """A source of random decisions, of which a rule takes a fixed number in a fixed order."""

    def first(self, node: int, accept_BK: torch.Tensor) -> torch.Tensor:
        """Toss a coin for every candidate and return the index of the first success, K if all fail; int64 [B]."""
        ...

    def pick(self, role: Role, node: int, law_BV: torch.Tensor) -> torch.Tensor:
        """Draw one token from the law of every row; int64 [B]."""
        ...

    def picks(self, families: Families, law_BMV: torch.Tensor) -> torch.Tensor:
        """Draw the children of several nodes independently, each from its parent's law; int64 [B, W], by family."""
        ...

    def order(self, node: int, law_BV: torch.Tensor, count: int) -> torch.Tensor:
        """Draw ``count`` distinct siblings one after the other, of which ``node`` is the first; int64 [B, C].

        Where the law has too few tokens, the first tokens of weight zero fill the rest.
        """
        ...

    def exponential(self, role: Role, node: int, count: int) -> torch.Tensor:
        """Return exponential numbers of mean 1; float64 [B, C]. They cannot be enumerated."""
        ...
