"""The rounding of what fp8 layers multiply, for models that PyTorch runs."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from torch import nn

from spectr_runtime.bundle.e4m3 import encode


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
