"""Which of many differences are more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence

LEVEL = 0.05


def signs(differences: Sequence[Sequence[float]], level: float = LEVEL) -> list[int]:
    """Return 1 or -1 for each difference that is not chance, and 0 for the others.

    That one of those is chance has at most a probability of ``level``, however they depend on each other (Holm, A
    simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979).

    Args:
        differences: For each comparison, the mean and its standard error, as of normal laws.
        level: Probability of any wrong sign.
    """
    chances = [chance(mean, error) for mean, error in differences]
    found = [0] * len(chances)
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        if chances[place] > level / (len(chances) - rank):
            break
        found[place] = 1 if differences[place][0] > 0 else -1
    return found


def chance(mean: float, error: float) -> float:
    """Return the probability that chance makes a mean as far from zero as this one or further."""
    if not error:
        return float(mean == 0)
    return math.erfc(abs(mean) / error / math.sqrt(2))
