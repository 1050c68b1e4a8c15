"""Integrals over the arrival times of exponential races, from which the acceptance of some rules follows."""

# B rows, Q nodes of the quadrature, K counts, V vocabulary.
from __future__ import annotations

import math

import torch

_STEP = 0.2


def times(least_rate: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return nodes and weights for integrals over time in (0, inf) of functions that decay at least at the given rate.

    This is the trapezoidal rule in the logarithm of time. Its error for an integrand ``rate exp(-rate time) g(time)``
    falls like ``exp(-pi^2 / step)`` and is below the precision of float64.
    """
    last = math.log(45) - math.log(least_rate)
    time_Q = torch.arange(-38.0, last, _STEP, dtype=torch.float64, device=device).exp()
    return time_Q, _STEP * time_Q


def add_coin(fewer_BQK: torch.Tensor, success_BQ: torch.Tensor) -> torch.Tensor:
    """Return the law of a number of successes, cut off at K, after one more coin."""
    success_BQ1 = success_BQ[..., None]
    moved_BQK = torch.nn.functional.pad(fewer_BQK[..., :-1], (1, 0))
    return fewer_BQK * (1 - success_BQ1) + moved_BQK * success_BQ1
