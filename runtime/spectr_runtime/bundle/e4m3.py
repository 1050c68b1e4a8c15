"""Rounding to E4M3, the eight-bit floating-point numbers that fp8 models multiply.

E4M3 has four bits of exponent, three of fraction and no infinities (Micikevicius et al., arXiv 2209.05433). A number
becomes the nearest code, ties to even, of what it is in units of a scale; beyond the largest code it stays there. This
is what ONNX's QuantizeLinear and DequantizeLinear do, to the bit: division in float32, then one rounding.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import nn

LARGEST = 448.0


def encode(numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Codes in ``float8_e4m3fn``.

    Args:
        numbers: Of any floating-point type.
        scales: Their scales, all positive, of a shape that broadcasts to theirs.
    """
    return (numbers.float() / scales.float()).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def round_inputs(model: nn.Module, scales: Mapping[str, torch.Tensor]) -> None:
    """Let linear layers multiply what their codes stand for instead of what they are given.

    Args:
        model: Has the layers; changed in place.
        scales: The scale [] of each layer's inputs, on the model's device, by the name of its matrix.
    """
    for name, scale in scales.items():
        layer = model.get_submodule(name.removesuffix(".weight"))
        layer.register_forward_pre_hook(functools.partial(_round, scale))


def _round(scale: torch.Tensor, _layer: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    (given,) = inputs
    return encode(given, scale).to(given.dtype) * scale.to(given.dtype)
