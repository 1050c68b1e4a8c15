"""The rounding of what fp8 and int8 layers multiply, for models that PyTorch runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import nn

from spectr_runtime.bundle.e4m3 import encode
from spectr_runtime.bundle.rows import read_levels, round_rows
from spectr_runtime.bundle.weights import read_channel_scales, read_input_scales
from spectr_runtime.errors import BundleError

# Rounds the inputs of a layer; their shape and type stay.
Rounding = Callable[[torch.Tensor], torch.Tensor]


def read_roundings(path: Path, *, device: torch.device | str = "cpu", rounding: bool = True) -> dict[str, Rounding]:
    """Read how a weights file says that the inputs of layers are rounded, by the names of the layers' matrices.

    Args:
        path: The file.
        device: Where the inputs are.
        rounding: Whether inputs are rounded. If not, what is left is the division by the scales of int8's inputs.

    Raises:
        BundleError: What the file says is malformed.
        OSError: There is no such file.
        SafetensorError: The file is not in the safetensors format.
    """
    levels = read_levels(path)
    channels = {name: scale_K.to(device).float() for name, scale_K in read_channel_scales(path, levels).items()}
    if not rounding:
        return {name: functools.partial(_to_quotients, scale_K) for name, scale_K in channels.items()}
    scales = {name: functools.partial(_to_e4m3, scale.to(device)) for name, scale in read_input_scales(path).items()}
    rows = {name: functools.partial(_to_rows, channels.get(name), most) for name, most in levels.items()}
    return {**scales, **rows}


def round_inputs(model: nn.Module, roundings: Mapping[str, Rounding]) -> None:
    """Let linear layers round their inputs before they multiply.

    Args:
        model: The model with the layers; it is changed.
        roundings: By the name of a layer's matrix, what rounds the layer's inputs.

    Raises:
        BundleError: The model has no such layer.
    """
    for name, rounding in roundings.items():
        try:
            layer = model.get_submodule(name.removesuffix(".weight"))
        except AttributeError as error:
            raise BundleError(
                f"The inputs of {name} are to be rounded, which the model does not have.",
                hint="Build the bundle again.",
            ) from error
        layer.register_forward_pre_hook(functools.partial(_round, rounding))


def _round(rounding: Rounding, _layer: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor:
    (given,) = inputs
    return rounding(given)


def _to_rows(scale_K: torch.Tensor | None, levels: int, given: torch.Tensor) -> torch.Tensor:
    return round_rows(given if scale_K is None else given.float() / scale_K, levels).to(given.dtype)


def _to_quotients(scale_K: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    return (given.float() / scale_K).to(given.dtype)


def _to_e4m3(scale: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    return encode(given, scale).to(given.dtype) * scale.to(given.dtype)
