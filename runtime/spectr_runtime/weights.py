"""The weights of a bundle's model, and the way back from quantised matrices to numbers.

A quantised matrix NAME of a linear layer stands in ``model.safetensors`` as two tensors, turned as the graph multiplies
with it: inputs first.

    NAME.codes    int8: I8 [K, N], one scale per output
                  int4: U8 [K, N / 2], two codes per byte with the even one low, one scale per block of inputs
    NAME.scales   int8: [N]; int4: [G, N], in the model's type

A weight is its code, from -128 to 127 or -8 to 7, times its scale. This is ONNX's DequantizeLinear, and the graph of
the bundle reads the same bytes.
"""

# K inputs of a linear layer, N outputs, G blocks of inputs.
from __future__ import annotations

from pathlib import Path

import torch

WEIGHTS = "model.safetensors"
CODES, SCALES = ".codes", ".scales"


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """Every weight under transformers' name: mapped as it stands, or decoded if it is quantised.

    Raises:
        OSError: There is no such file.
        SafetensorError: It is no safetensors file.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    quantised = [name.removesuffix(CODES) for name in stored if name.endswith(CODES)]
    for name in quantised:
        stored[name] = dequantise(stored.pop(name + CODES), stored.pop(name + SCALES))
    return stored


def dequantise(codes: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """The matrix [N, K] of a linear layer in the type of its scales.

    Args:
        codes: As stored: int8 [K, N], or uint8 [K, N / 2] with two codes per byte.
        scales: As stored: [N] for int8, [G, N] for int4.
    """
    codes_KN = codes if codes.dtype == torch.int8 else _unpack(codes)
    blocks = 1 if scales.dim() == 1 else len(scales)
    inputs, outputs = codes_KN.shape
    codes_GKN = codes_KN.view(blocks, inputs // blocks, outputs)
    return (codes_GKN * scales.view(blocks, 1, outputs)).view(inputs, outputs).T.contiguous()


def _unpack(bytes_KN: torch.Tensor) -> torch.Tensor:
    """Codes -8 to 7 as int8 [K, N] from two's complement in half bytes [K, N / 2]."""
    halves_KN2 = torch.stack((bytes_KN & 15, bytes_KN >> 4), dim=-1).view(torch.int8)
    return ((halves_KN2 ^ 8) - 8).flatten(1)
