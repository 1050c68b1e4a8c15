"""Reading the weights of a bundle's model, and decoding quantised matrices.

A quantised matrix NAME of a linear layer is stored in ``model.safetensors`` as two tensors, in the orientation in which
the graph multiplies with it: inputs first.

    NAME.codes    int8: I8 [K, N]
                  int4: U8 [K, N / 2], two codes per byte with the even one low
                  fp8: F8_E4M3 [K, N]
    NAME.scales   [N], one scale per output, or [G, N], one per output and block of inputs, in the model's type
    NAME.minima   [G, N], only where the numbers of a block are not spread around zero

Where a layer's inputs are rounded to fp8 too, another tensor is their scale, as in ``spectr_runtime.bundle.e4m3``:

    NAME.input_scale    [], in the model's type

Where they are rounded row by row, for int8, the file's metadata say so, as in ``spectr_runtime.bundle.rows``. Then they
may be divided before that, each by its own scale, for which the matrix makes up:

    NAME.input_scale    [K], in the model's type

A mixture's experts are stored as ``spectr_runtime.bundle.stacks`` describes. Most models of transformers keep a matrix
with its outputs first. If a model keeps the inputs first, the file's metadata says so under ``layers`` or ``experts``.

A weight is its code, from -128 to 127, -8 to 7 or -448 to 448, times its scale, plus its minimum if there are minima.
ONNX's DequantizeLinear computes the product, and the graph of the bundle reads the same bytes; it multiplies minima
with the sums of a block's inputs.
"""

# K inputs of a linear layer, N outputs, G blocks of inputs.
from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from spectr_runtime.bundle.stacks import expert, is_up, stack_shape
from spectr_runtime.errors import BundleError

E4M3 = "F8_E4M3"  # the name in safetensors
CODES, SCALES, MINIMA, INPUT = ".codes", ".scales", ".minima", ".input_scale"
INPUTS_FIRST = "inputs first"


@dataclasses.dataclass(frozen=True, slots=True)
class Order:
    """Which of a model's matrices have the inputs first in transformers: [K, N] instead of [N, K].

    Attributes:
        layers: Whether the matrices of linear layers do, as in GPT-2.
        experts: Whether the stacks of experts do.
    """

    layers: bool = False
    experts: bool = False

    def to_metadata(self) -> dict[str, str]:
        """Return the order as metadata of a weights file."""
        return {name: INPUTS_FIRST for name, first in dataclasses.asdict(self).items() if first}

    @staticmethod
    def from_metadata(metadata: Mapping[str, str]) -> Order:
        """Read what ``to_metadata`` returned."""
        return Order(metadata.get("layers") == INPUTS_FIRST, metadata.get("experts") == INPUTS_FIRST)


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Read every weight under its name in transformers; quantised ones are decoded, others are mapped from the file.

    Raises:
        OSError: There is no such file.
        SafetensorError: The file is not in the safetensors format.
    """
    stored, order = read_stored(path)
    quantised = [name.removesuffix(CODES) for name in stored if name.endswith(CODES)]
    for name in quantised:
        codes, scales, minima = stored.pop(name + CODES), stored.pop(name + SCALES), stored.pop(name + MINIMA, None)
        if codes.dim() == 2:
            stored[name] = read_layer(codes, scales, minima, inputs_first=order.layers)
        else:
            layout: Any = {"up": is_up(name), "inputs_first": order.experts}
            experts, *_ = stack_shape(codes, scales, **layout)
            stored[name] = torch.stack([read_expert(codes, scales, number, **layout) for number in range(experts)])
    return stored


def read_stored(path: Path) -> tuple[dict[str, torch.Tensor], Order]:
    """Map every stored tensor of a model, except the scales of inputs, and read the order of quantised ones.

    Raises:
        OSError: There is no such file.
        SafetensorError: The file is not in the safetensors format.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if not name.endswith(INPUT)]  # noqa: SIM118
        stored = {name: file.get_tensor(name) for name in names}
        return stored, Order.from_metadata(file.metadata() or {})


def read_layer(
    codes: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor | None = None, *, inputs_first: bool
) -> torch.Tensor:
    """Decode the matrix of a layer, in the type of its scales; [K, N] if the inputs are first, else [N, K]."""
    matrix_NK = dequantise(codes, scales, minima)
    return matrix_NK.T.contiguous() if inputs_first else matrix_NK


def layer_shape(codes: torch.Tensor, scales: torch.Tensor, order: Order) -> tuple[int, int]:
    """Return the shape that a quantised matrix of a layer has in transformers."""
    inputs, outputs = len(codes), scales.shape[-1]
    return (inputs, outputs) if order.layers else (outputs, inputs)


def read_input_scales(path: Path) -> dict[str, torch.Tensor]:
    """Read the scales [] of the inputs of fp8 layers, by the names of their matrices.

    There are none for other precisions, nor for a checkpoint in fp8 that is kept as it comes: then weights alone have
    been rounded.

    Raises:
        BundleError: Some matrices have a scale and one lacks it, or a scale is not a positive number.
        OSError: There is no such file.
        SafetensorError: The file is not in the safetensors format.
    """
    from safetensors import safe_open

    scales = {}
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        rounded = any(name.endswith(INPUT) for name in names)
        for codes in sorted(name for name in names if rounded and name.endswith(CODES)):
            if file.get_slice(codes).get_dtype() == E4M3:
                name = codes.removesuffix(CODES)
                scales[name] = file.get_tensor(name + INPUT).float() if name + INPUT in names else torch.tensor(0.0)
    for name, scale in scales.items():
        if scale.dim() or not 0 < float(scale) < torch.inf:
            raise BundleError(
                f"{path} has no scale for the inputs of {name}, or one that is not a positive number.",
                hint="Build the bundle again.",
            )
    return scales


def read_channel_scales(path: Path, names: Iterable[str]) -> dict[str, torch.Tensor]:
    """Read what the inputs [..., K] of int8 layers are divided by, each by its own scale, before they are rounded.

    Args:
        path: The weights file.
        names: Names of the matrices whose inputs are rounded by rows.

    Returns:
        The scales [K] by the names of those matrices that have some.

    Raises:
        BundleError: Scales are not one positive number for each input.
        OSError: There is no such file.
        SafetensorError: The file is not in the safetensors format.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        stored = set(file.keys())
        found = {name: file.get_tensor(name + INPUT) for name in names if name + INPUT in stored}
        inputs = {name: file.get_slice(name + CODES).get_shape()[0] for name in found if name + CODES in stored}
    for name, scale_K in found.items():
        if scale_K.shape != (inputs.get(name),) or not bool(((scale_K > 0) & scale_K.isfinite()).all()):
            raise BundleError(
                f"{path} has no positive scale for each input of {name}, or more of them than the matrix has inputs.",
                hint="Build the bundle again.",
            )
    return found


def read_expert(
    codes: torch.Tensor, scales: torch.Tensor, number: int, *, up: bool, inputs_first: bool
) -> torch.Tensor:
    """Decode the matrix of one expert, in the type of its scales; [K, N] if the inputs are first, else [N, K]."""
    return read_layer(*expert(codes, scales, number, up=up), inputs_first=inputs_first)


def dequantise(codes: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor | None = None) -> torch.Tensor:
    """Decode the matrix [N, K] of a linear layer, in the type of its scales.

    Args:
        codes: The stored codes: int8 or float8_e4m3fn [K, N], or uint8 [K, N / 2] with two codes per byte.
        scales: The stored scales, [N] or [G, N].
        minima: The stored minima, [G, N]; None for none.
    """
    codes_KN = _unpack(codes) if codes.dtype == torch.uint8 else codes.to(scales.dtype)
    blocks = 1 if scales.dim() == 1 else len(scales)
    inputs, outputs = codes_KN.shape
    codes_GKN, scales_G1N = codes_KN.view(blocks, inputs // blocks, outputs), scales.view(blocks, 1, outputs)
    if minima is None:
        weights_GKN = codes_GKN * scales_G1N
    else:  # rounded once, after the sum
        weights_GKN = (codes_GKN * scales_G1N.float() + minima.view(blocks, 1, outputs)).to(scales.dtype)
    return weights_GKN.view(inputs, outputs).T.contiguous()


def _unpack(bytes_KN: torch.Tensor) -> torch.Tensor:
    """Return the codes -8 to 7, as int8 [K, N], that bytes [K, N / 2] hold in two's complement of four bits."""
    # Flipping the sign bit and subtracting its value extends the sign: 0..7 stay, 8..15 become -8..-1.
    halves_KN2 = torch.stack((bytes_KN & 15, bytes_KN >> 4), dim=-1).view(torch.int8)
    return ((halves_KN2 ^ 8) - 8).flatten(1)
