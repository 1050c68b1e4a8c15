"""Rounding to E4M3, the eight-bit floating-point numbers that fp8 models multiply.

E4M3 has four bits of exponent, three of fraction and no infinities (Micikevicius et al., arXiv 2209.05433). A number is
divided by a scale, in float32, and rounded once, to the nearest code with ties to even; beyond the largest code it
becomes the largest. ONNX's QuantizeLinear and DequantizeLinear do exactly the same, to the last bit.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import nn

LARGEST = 448.0


def encode(numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the codes of some numbers, in ``float8_e4m3fn``.

    Args:
        numbers: The numbers, of any floating-point type.
        scales: Their scales, all positive, in a shape that broadcasts to that of the numbers.
    """
    return (numbers.float() / scales.float()).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def round_inputs(model: nn.Module, scales: Mapping[str, torch.Tensor]) -> None:
    """Let linear layers round their inputs to codes and back before they multiply.

    Args:
        model: The model with the layers; it is changed.
        scales: By the name of a layer's matrix, the scale [] of the layer's inputs, on the model's device.
    """
    for name, scale in scales.items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        layer.register_forward_pre_hook(functools.partial(_round, scale))


def _round(scale: torch.Tensor, _layer: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    (given,) = inputs
    return encode(given, scale).to(given.dtype) * scale.to(given.dtype)
