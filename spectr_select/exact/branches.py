"""A ``Chance`` that takes every outcome: each row of a batch becomes one branch for each outcome of its decisions.

A rule takes its decisions in a fixed order, so all branches reach the same decision together. The code under
enumeration runs again and again: each run replays the decisions already taken and stops at the next one, by whose
outcomes every branch is then split.
"""

# R branches, B rows, C draws, K candidates, M families, V vocabulary, W nodes of a level, X outcomes.
from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from spectr_select.chance import Role
from spectr_select.tree import Families

T = TypeVar("T")


class _Fork(Exception):
    def __init__(self, law_RX: torch.Tensor) -> None:
        super().__init__()
        self.law_RX = law_RX


class Branches:
    """A ``Chance`` that replays given outcomes and stops at the first decision for which no outcome is given.

    Attributes:
        row_R: The row of the inputs that each branch belongs to.
        weight_R: The probability of each branch, given its row.
    """

    def __init__(self, row_R: torch.Tensor, weight_R: torch.Tensor, outcomes: tuple[torch.Tensor, ...] = ()) -> None:
        self.row_R, self.weight_R = row_R, weight_R
        self._outcomes, self._next = outcomes, 0

    def first(self, node: int, accept_BK: torch.Tensor) -> torch.Tensor:
        """See ``Chance``."""
        failed_BK = (1 - accept_BK).cumprod(1)
        reached_BK = torch.cat([torch.ones_like(failed_BK[:, :1]), failed_BK], 1)
        return self._decide(torch.cat([reached_BK[:, :-1] * accept_BK, reached_BK[:, -1:]], 1))

    def pick(self, role: Role, node: int, law_BV: torch.Tensor) -> torch.Tensor:
        """See ``Chance``."""
        return self._decide(law_BV / law_BV.sum(1, keepdim=True))

    def picks(self, families: Families, law_BMV: torch.Tensor) -> torch.Tensor:
        """See ``Chance``."""
        laws = [law_BV for law_BV, nodes in zip(law_BMV.unbind(1), families, strict=True) for _ in nodes]
        return torch.stack([self.pick(Role.DRAFT, 0, law_BV) for law_BV in laws], 1)

    def order(self, node: int, law_BV: torch.Tensor, count: int) -> torch.Tensor:
        """See ``Chance``. Each arrival of an exponential race follows the law without the tokens that came before."""
        tokens, left_BV = [], torch.ones_like(law_BV)
        for _ in range(count):
            rest_BV = law_BV * left_BV
            # Where all remaining tokens have weight zero, the first of them is taken, as in a race.
            filler_BV = torch.zeros_like(law_BV).scatter(1, left_BV.argmax(1, keepdim=True), 1)
            rest_BV = torch.where((rest_BV > 0).any(1, keepdim=True), rest_BV, filler_BV)
            tokens.append(self.pick(Role.DRAFT, node, rest_BV))
            left_BV = left_BV.scatter(1, tokens[-1][:, None], 0)
        return torch.stack(tokens, 1)

    def exponential(self, role: Role, node: int, count: int) -> torch.Tensor:
        """Refuse, because a race has infinitely many outcomes.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "A race cannot be enumerated, because its outcomes are real numbers. The token that it emits follows the "
            "target's law by the theorem of the exponential race; test it by sampling."
        )

    def split(self, law_RX: torch.Tensor) -> Branches:
        """Return every branch once for each possible outcome of the next decision, given the law of the outcomes."""
        branch_S, outcome_S = law_RX.nonzero(as_tuple=True)
        replayed = (*(outcome_R[branch_S] for outcome_R in self._outcomes), outcome_S)
        return Branches(self.row_R[branch_S], self.weight_R[branch_S] * law_RX[branch_S, outcome_S], replayed)

    def _decide(self, law_RX: torch.Tensor) -> torch.Tensor:
        if self._next == len(self._outcomes):
            raise _Fork(law_RX)
        self._next += 1
        return self._outcomes[self._next - 1]


def every_branch(rows: int, run: Callable[[Branches], T]) -> tuple[T, Branches]:
    """Run code under every outcome of the decisions that it takes.

    Args:
        rows: The number of rows B of the inputs.
        run: The code, a function of the branches. It must take its inputs at the rows ``row_R`` of the branches.

    Returns:
        The result of the code for all branches at once, and the branches.
    """
    branches = Branches(torch.arange(rows), torch.ones(rows, dtype=torch.float64))
    while True:
        try:
            return run(branches), branches
        except _Fork as fork:
            branches = branches.split(fork.law_RX)
