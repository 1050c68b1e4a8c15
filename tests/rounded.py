"""What holds for every precision in which the inputs of products are rounded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from spectr_export.checks.parity import compare
from spectr_export.checks.reference import Reference
from spectr_export.checks.tolerance import Criterion, within_spread
from spectr_export.original.model import load_original
from spectr_runtime.contract import Engine


def check_engines_round(
    folder: Path, engines: Sequence[Engine], name: str, least: float, near_enough: Criterion | None = None
) -> None:
    """Assert that engines are near the original that rounds alike, and ``least`` of the spread from the exact one.

    ``near_enough`` also holds each text's logits to the original that rounds alike.
    """
    rounded, exact = Reference(load_original(folder)), Reference(load_original(folder, rounding=False))
    for engine in engines:
        near = max(compare(rounded, engine, near_enough or _any_difference, name=name).values())
        far = max(compare(exact, engine, _any_difference, name=name).values())
        # A difference in the last bit sometimes moves a number to another code, which changes all that follows.
        assert near < 0.5 * far
        assert far > least


def _any_difference(logits_V: torch.Tensor, expected_V: torch.Tensor) -> tuple[float, bool, str]:
    difference, _, _ = within_spread(logits_V, expected_V)
    return difference, True, "any"
