"""How many tokens of a draft that was looked up are expected to be accepted."""

from __future__ import annotations

import itertools
from collections.abc import Sequence


def expected(agreeing: Sequence[float], shares: tuple[float, float], paths: int) -> tuple[float, ...]:
    """Return how many tokens of a draft are expected to be accepted, if it is cut to 1, 2, ... tokens.

    Args:
        agreeing: For each token, the share of what was found that agrees with the first path up to there.
        shares: The shares of first and of later tokens that are accepted where all agree.
        paths: Number of paths; the others cover a part of what does not agree with the first one.
    """
    first, later = shares
    others = 1 - agreeing[0]
    covered = agreeing[0] + others * (1 - 1 / paths)
    chances = [first * covered]
    for before, now in itertools.pairwise(agreeing):
        chances.append(chances[-1] * later * now / before)
    return tuple(itertools.accumulate(chances))
