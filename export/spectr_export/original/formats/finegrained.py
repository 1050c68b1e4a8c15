"""Checkpoints in fp8 with a scale for each square of a matrix, as DeepSeek and Qwen publish them.

A layer has ``weight``, float8_e4m3fn [N, K], and ``weight_scale_inv``, a scale for each square of ``weight_block_size``
outputs and inputs; in spite of its name a weight is its code times that scale. Source: ``finegrained_fp8`` of
transformers.
"""

# N outputs, K inputs.
from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from spectr_export.original.formats.blocks import Blocks, QuantisedMatrix, fitting_form

SCALE = "weight_scale_inv"
SIDES = (128, 128)


def read_finegrained(
    tensors: Mapping[str, torch.Tensor], settings: Mapping[str, Any], _model: Any
) -> dict[str, torch.Tensor | QuantisedMatrix]:
    """Return the tensors of a checkpoint, with a matrix in place of each quantised layer's.

    Args:
        tensors: The tensors by their names in the checkpoint.
        settings: Its ``quantization_config``.
    """
    sides = settings.get("weight_block_size") or SIDES
    found: dict[str, torch.Tensor | QuantisedMatrix] = {}
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        scales = tensors.get(f"{path}.{SCALE}")
        if last == "weight" and scales is not None:
            found[name] = _matrix(tensor, scales, *sides)
        elif last != SCALE:
            found[name] = tensor
    return found


def _matrix(codes_NK: torch.Tensor, scales: torch.Tensor, side_N: int, side_K: int) -> QuantisedMatrix:
    outputs, inputs = codes_NK.shape

    def unpack() -> Blocks:
        return Blocks(codes_NK, scales.float().repeat_interleave(side_N, 0)[:outputs])

    if inputs % side_K == 0:
        form = fitting_form("fp8", codes_NK.shape, inputs // side_K, minima=False)
        return QuantisedMatrix.of(codes_NK.shape, form, unpack)
    return QuantisedMatrix.scattered(codes_NK.shape, torch.arange(inputs) // side_K, unpack)
