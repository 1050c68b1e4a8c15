"""What the work of a round depends on beside the numbers that it works with."""

from __future__ import annotations

import dataclasses
from typing import Literal

from spectr_runtime.contract.mask import aligned
from spectr_runtime.speculation.plan import Plan


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """What the work of a round depends on, as far as the host knows it; rounds of one shape issue the same operations.

    Attributes:
        plan: The plan.
        rows: Number of rows B, those among them that are free or take no part.
        longest: Tokens of the longest text, or more; it sizes the attention of all calls.
        tokens: Number of tokens that the target is fed for each row, at least those of the plan's tree.
        greedy: Which rows have temperature 0.
        truncated: For how many rows a law is truncated.
        adjusted: For how many rows logits are changed.
        scored: For how many rows log-probabilities are wanted.
        most_scored: How many of the most probable tokens are reported with each token of these rows.
        given: Whether drafts are given to rows, or kept from some of them; ``plain`` if a row is to draft nothing.
        fresh: How many tokens a head is fed for each row; 0 where the draft is no head.
    """

    plan: Plan
    rows: int
    longest: int
    tokens: int
    greedy: Literal["none", "some", "all"] = "none"
    truncated: int = 0
    adjusted: int = 0
    scored: int = 0
    most_scored: int = 0
    given: Literal["no", "yes", "plain"] = "no"
    fresh: int = 0

    @property
    def slots(self) -> int:
        """How many slots of a row the calls of the round read or write, of target and draft."""
        block = max(self.tokens, self.fresh, 2)
        return aligned(self.longest - 1 + block)
