"""The ranges of the sampling parameters, in one table for requests here and for the records of input in jobs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

MOST_LOGPROBS = 20  # most probable tokens that are reported with each token; as many as the OpenAI API allows


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """The values that a parameter may take.

    Attributes:
        low: The smallest value.
        high: The largest value.
        also: Values outside of these bounds that are allowed too.
        phrase: The range in words, where the bounds alone do not say it well.
    """

    low: float
    high: float = math.inf
    also: tuple[float | None, ...] = ()
    phrase: str = ""

    def holds(self, value: float | None) -> bool:
        """Return whether a value is allowed; NaN never is."""
        return value in self.also or (value is not None and self.low <= value <= self.high)

    @property
    def bounds(self) -> str:
        """The bounds in words, such as ``0 to 1``, or ``1 upwards`` without an upper one."""
        return f"{self.low} upwards" if self.high == math.inf else f"{self.low} to {self.high}"

    @property
    def words(self) -> str:
        """The range in words, for a message that says what a parameter must be."""
        return self.phrase or self.bounds


RANGES: Mapping[str, Range] = {
    "max_tokens": Range(0, phrase="0 or more"),
    # Logits divided by a smaller temperature would leave float32.
    "temperature": Range(1e-5, 1000, also=(0,), phrase="0, or from 0.00001 to 1000"),
    "top_k": Range(0, phrase="0 (all tokens) or more"),
    "top_p": Range(0, 1),
    "min_p": Range(0, 1),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "repetition_penalty": Range(0.01, 100),
    "logprobs": Range(0, MOST_LOGPROBS, also=(None,), phrase="0 to 20, or nothing"),
    "seed": Range(0, 2**63 - 1, also=(None,), phrase="from 0 to 2**63 - 1"),
}
LOGIT_BIAS = Range(-100, 100)  # the bias of each token
