"""What goes into the scorer and what comes out."""

from __future__ import annotations

import dataclasses

from spectr_runtime.rows.request import Request


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """A completion to be scored.

    Attributes:
        request: What was asked.
        token_ids: What was written, at least one token.
    """

    request: Request
    token_ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class TokenScore:
    """Where a token stands in the target's law t; d is the draft's.

    Attributes:
        probability: t of the token.
        below_by_ratio: Probability of the tokens whose d / t is smaller; of equal ones, those with a lower id count.
        below_by_probability: Probability of the tokens that are less probable, likewise.
        possible: False if the law would not allow the token even if its logit were higher by the tolerance.
    """

    probability: float
    below_by_ratio: float
    below_by_probability: float
    possible: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """A completion and the scores of its tokens."""

    written: Written
    tokens: tuple[TokenScore, ...]
