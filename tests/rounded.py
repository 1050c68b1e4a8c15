"""What holds for every precision in which the inputs of products are rounded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from spectr_export.checks.parity import compare
from spectr_export.checks.reference import Reference
from spectr_export.checks.tolerance import Criterion, within_spread
from spectr_export.original.model import load_original
from spectr_runtime import Call, ModelSpec
from spectr_runtime.contract import Engine
from spectr_runtime.engines.torch import TorchEngine


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


class _HostReads(TorchDispatchMode):
    """Takes note of the operations that read a tensor of the host."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(
        self, operation: Any, types: object, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.device.type == "cpu" for tensor in tensors):
            self.found.append(str(operation))
        return operation(*arguments, **(options or {}))


def reads_of_the_host(folder: Path, spec: ModelSpec) -> list[str]:
    """Return the operations of a pass of PyTorch's engine on another device that read a tensor of the host."""
    engine = TorchEngine(folder, spec, rows=1, capacity=8, device="meta")
    ids = torch.zeros((1, 3), dtype=torch.int64, device="meta")
    mask = torch.ones((1, 1, 3, 3), dtype=torch.bool, device="meta")
    call = Call(ids, ids, mask, torch.zeros(1, dtype=torch.int64, device="meta"), ids)
    with _HostReads() as reads:
        assert engine.forward(call).device.type == "meta"
    return reads.found
