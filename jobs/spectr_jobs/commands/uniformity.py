"""A test that numbers are uniform on [0, 1): Kolmogorov's statistic with the bound of Dvoretzky, Kiefer and Wolfowitz.

With Massart's constant (Annals of Probability 18, 1990) the bound holds for every count: for n independent uniform
numbers the statistic exceeds e with probability at most ``2 exp(-2 n e^2)``. No p-value rests on n being large.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Uniformity:
    """How far numbers are from uniform.

    Attributes:
        count: How many numbers there were.
        distance: Largest difference between the share of numbers below a bound and the bound.
    """

    count: int
    distance: float

    @staticmethod
    def of(numbers: Sequence[float]) -> Uniformity:
        """Measure numbers in [0, 1]."""
        count = len(numbers)
        gaps = (max((index + 1) / count - one, one - index / count) for index, one in enumerate(sorted(numbers)))
        return Uniformity(count, max(gaps, default=0.0))

    @property
    def p_value(self) -> float:
        """Most that the probability of so large a distance can be if the numbers are independent and uniform."""
        return min(1.0, 2 * math.exp(-2 * self.count * self.distance**2))

    def resolution(self, alpha: float) -> float:
        """The distance from which on the p-value is below ``alpha``; one with no numbers."""
        return min(1.0, math.sqrt(math.log(2 / alpha) / (2 * self.count))) if self.count else 1.0

    def to_json(self) -> dict[str, Any]:
        """The result as JSON values."""
        return dataclasses.asdict(self) | {"p_value": self.p_value}
