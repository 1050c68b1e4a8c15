"""Rounding the matrices of layers to int8, int4 or fp8.

All are symmetric and round to nearest. int8 has one scale per output, with the largest weight at 127; int4 has one per
block of 32 inputs, from a few clipping points that with the least squared error; fp8 has one per output, with the
largest weight at 448. No weight depends on data: any model is quantised in one pass over its weights. The result is
ONNX's DequantizeLinear, which ONNX Runtime and TensorRT read.
"""

# K inputs of a linear layer, N outputs, G blocks of inputs.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from spectr_export.weights import Layout
from spectr_runtime.bundle.e4m3 import LARGEST, encode
from spectr_runtime.errors import BundleError

BLOCK = 32
# Fractions of a block's largest weight that the largest code may stand for.
CLIPPING = (1.0, 0.95, 0.9, 0.85, 0.8)


def quantisable(model: Any, quantisation: str) -> set[str]:
    """Names of the layers' matrices that are quantised: all but the one that gives the logits.

    Embeddings and logits stay as they are; a model's quality depends most on them. So does a matrix whose inputs do not
    fill whole blocks.

    Raises:
        BundleError: There is none.
    """
    head = model.get_output_embeddings()
    found = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and fits(_turned(module), quantisation)
    }
    if not found:
        raise BundleError(
            f"The {model.config.model_type} model has no layers that can be stored in {quantisation}.",
            hint="Build it without `--quantise`.",
        )
    return found


def has_inputs_first(model: Any) -> bool:
    """Whether a model's layers keep their matrices [K, N], as GPT-2 does, not [N, K]."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def _turned(module: nn.Linear | Conv1D) -> torch.Size:
    """Outputs and inputs of a layer."""
    return module.weight.shape if isinstance(module, nn.Linear) else module.weight.T.shape


def quantised_layouts(matrix_NK: torch.Tensor, quantisation: str, dtype: torch.dtype) -> tuple[Layout, Layout]:
    """What ``quantise`` will give."""
    outputs, inputs = matrix_NK.shape
    if quantisation == "int8":
        return Layout(torch.int8, (inputs, outputs)), Layout(dtype, (outputs,))
    if quantisation == "fp8":
        return Layout(torch.float8_e4m3fn, (inputs, outputs)), Layout(dtype, (outputs,))
    return Layout(torch.uint8, (inputs, outputs // 2)), Layout(dtype, (inputs // BLOCK, outputs))


def quantise(matrix_NK: torch.Tensor, quantisation: str, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of a linear layer's matrix, as ``spectr_runtime.bundle.weights`` describes them.

    Args:
        matrix_NK: The matrix, in any type.
        quantisation: ``int8``, ``int4`` or ``fp8``.
        dtype: Type of the scales.
    """
    matrix_KN = matrix_NK.float().T.contiguous()
    if quantisation == "int8":
        scales_N = _positive((matrix_KN.abs().amax(0) / 127).to(dtype))
        return _round(matrix_KN, scales_N.float(), 127).to(torch.int8), scales_N
    if quantisation == "fp8":
        scales_N = scale_to(matrix_KN.abs().amax(0), dtype)
        return encode(matrix_KN, scales_N), scales_N
    inputs, outputs = matrix_KN.shape
    blocks_GKN = matrix_KN.view(inputs // BLOCK, BLOCK, outputs)
    largest_GN = blocks_GKN.abs().amax(1)
    best_GN, scales_GN = torch.full_like(largest_GN, torch.inf), torch.zeros_like(largest_GN)
    for fraction in CLIPPING:
        tried_GN = _positive((largest_GN * (fraction / 7)).to(dtype)).float()
        error_GKN = _round(blocks_GKN, tried_GN[:, None], 7).mul_(tried_GN[:, None]).sub_(blocks_GKN)
        error_GN = error_GKN.square_().sum(1)
        scales_GN = torch.where(error_GN < best_GN, tried_GN, scales_GN)
        best_GN = torch.minimum(error_GN, best_GN)
    codes_KN = _round(blocks_GKN, scales_GN[:, None], 7).view(inputs, outputs).to(torch.int8).view(torch.uint8) & 15
    return codes_KN[:, 0::2] | (codes_KN[:, 1::2] << 4), scales_GN.to(dtype)


def scale_to(largest: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Scales of fp8 in a type, with which the largest numbers have the largest code."""
    return _positive((largest / LARGEST).to(dtype))


def _round(weights: torch.Tensor, scales: torch.Tensor, largest: int) -> torch.Tensor:
    """The nearest codes of -largest to largest."""
    return (weights / scales).round_().clamp_(-largest, largest)


def _positive(scales: torch.Tensor) -> torch.Tensor:
    """Scales of which none is 0: where all weights are, any other gives them too, and TensorRT takes no other."""
    return scales.where(scales > 0, 1)


def fits(sizes: Sequence[int], quantisation: str) -> bool:
    """Whether a matrix of so many outputs and inputs can be stored so."""
    outputs, inputs = sizes
    return quantisation != "int4" or (inputs % BLOCK == 0 and outputs % 2 == 0)
