"""A test that numbers are uniform on [0, 1): Kolmogorov's statistic with the bound of Dvoretzky, Kiefer and Wolfowitz.

With Massart's constant (Annals of Probability 18, 1990) the bound holds for every count: for n independent uniform
numbers the statistic exceeds e with probability at most ``2 exp(-2 n e^2)``. So no p-value needs n to be large.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True, slots=True)
class Uniformity:
    """How far some numbers are from a uniform distribution on [0, 1).

    Attributes:
        count: Number of numbers.
        distance: Kolmogorov's statistic, the largest difference over all x between x and the share of numbers below x.
    """

    count: int
    distance: float

    @staticmethod
    def of(numbers: Sequence[float]) -> Uniformity:
        """Measure numbers in [0, 1]."""
        count = len(numbers)
        gaps = (max((index + 1) / count - x, x - index / count) for index, x in enumerate(sorted(numbers)))
        return Uniformity(count, max(gaps, default=0.0))

    @property
    def p_value(self) -> float:
        """Upper bound on the probability of such a distance if the numbers are independent and uniform."""
        return min(1.0, 2 * math.exp(-2 * self.count * self.distance**2))

    def resolution(self, alpha: float) -> float:
        """Return the distance above which the p-value is below ``alpha``; 1 if there are no numbers."""
        return min(1.0, math.sqrt(math.log(2 / alpha) / (2 * self.count))) if self.count else 1.0

    def to_json(self) -> dict[str, Any]:
        """Return count, distance and p-value as JSON values."""
        return dataclasses.asdict(self) | {"p_value": self.p_value}
