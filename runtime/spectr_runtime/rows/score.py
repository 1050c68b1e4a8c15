"""Completions, which go into the scorer, and their scores, which come out."""

from __future__ import annotations

import dataclasses

from spectr_runtime.rows.request import Request


@dataclasses.dataclass(frozen=True, slots=True)
class Written:
    """A completion that is to be scored.

    Attributes:
        request: The request that the completion answered.
        token_ids: The tokens that were written, at least one.
    """

    request: Request
    token_ids: tuple[int, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class TokenScore:
    """A written token's probability under the target's law t, and its rank there in two orders.

    A rank is the probability, under t, of all tokens that come before the written one. Tokens that are equal in an
    order come by their ids. The law of the draft, if the bundle has one, is called d.

    Attributes:
        probability: The token's probability under t.
        below_by_ratio: Its rank when tokens are ordered by d / t, the smallest first; None without a draft.
        below_by_probability: Its rank when tokens are ordered by t, the least probable first.
        possible: Whether t allows the token, or would if the token's logit were higher by the scorer's tolerance.
    """

    probability: float
    below_by_ratio: float | None
    below_by_probability: float
    possible: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Score:
    """A completion and the scores of its tokens."""

    written: Written
    tokens: tuple[TokenScore, ...]
