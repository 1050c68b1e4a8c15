"""Curves over sizes: measured in turns, with what describes their growth."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click
import numpy as np

Curves = Mapping[str, float]


def collect(sizes: Sequence[int], repeats: int, measure: Callable[[int], Curves]) -> dict[str, Any]:
    """Measure every size in every repeat, the order turning, and describe the curves."""
    found: dict[int, list[Curves]] = {size: [] for size in sizes}
    for repeat in range(repeats):
        for place in range(len(sizes)):
            size = sizes[(place + repeat) % len(sizes)]
            found[size].append(measure(size))
            told = "  ".join(f"{name} {value:.3g}" for name, value in found[size][-1].items())
            click.echo(f"  {size}: {told}", err=True)
    curves = {name: [[one[name] for one in found[size]] for size in sizes] for name in found[sizes[0]][0]}
    return {
        "sizes": [*sizes],
        "repeats": repeats,
        "curves": {name: describe(sizes, values) for name, values in curves.items()},
    }


def describe(sizes: Sequence[int], values: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Medians over the repeats at every size with their range, and how the medians grow."""
    middle = [statistics.median(repeats) for repeats in values]
    return {
        "median": [short(value) for value in middle],
        "least": [short(min(repeats)) for repeats in values],
        "most": [short(max(repeats)) for repeats in values],
        "power": round(power(sizes, middle), 3),
        "line": {name: short(value) for name, value in line(sizes, middle).items()},
    }


def short(value: float) -> float:
    """A number to four digits."""
    return float(f"{value:.4g}")


def power(sizes: Sequence[int], values: Sequence[float]) -> float:
    """The slope between the ends on logarithmic scales."""
    return math.log(values[-1] / values[0]) / math.log(sizes[-1] / sizes[0])


def line(sizes: Sequence[int], values: Sequence[float]) -> dict[str, float]:
    """The line that fits best in proportion (least squares of relative deviations), and its largest such deviation."""
    size_N, value_N = np.asarray(sizes, float), np.asarray(values, float)
    each, start = np.polyfit(size_N, value_N, 1, w=1 / value_N)
    return {"start": start, "each": each, "deviation": float(np.abs((start + each * size_N) / value_N - 1).max())}
