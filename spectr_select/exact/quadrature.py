"""Integrals over the arrival time of exponential races, for the acceptance of drafts without replacement."""

# B rows, Q nodes of the quadrature, K counts, V vocabulary.
from __future__ import annotations

import math

import torch

_STEP = 0.2


def times(least_rate: float, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights for integrals over time in (0, inf) of what decays with at least that rate.

    The trapezoidal rule in the logarithm of time: the error of an integrand ``rate exp(-rate time) g(time)`` falls with
    ``exp(-pi^2 / step)``, below the precision of float64.
    """
    last = math.log(45) - math.log(least_rate)
    time_Q = torch.arange(-38.0, last, _STEP, dtype=torch.float64, device=device).exp()
    return time_Q, _STEP * time_Q


def add_coin(fewer_BQK: torch.Tensor, success_BQ: torch.Tensor) -> torch.Tensor:
    """Law of a number of successes, cut off at K, after one more coin."""
    success_BQ1 = success_BQ[..., None]
    moved_BQK = torch.nn.functional.pad(fewer_BQK[..., :-1], (1, 0))
    return fewer_BQK * (1 - success_BQ1) + moved_BQK * success_BQ1
