"""Rounds the matrices of linear layers to int8, int4 or fp8, each matrix by its weights alone.

All three are symmetric and round to nearest. int8 has one scale per output, with the largest weight at code 63 where
the inputs are rounded too (``spectr_runtime.bundle.rows``) and at 127 otherwise. int4 has one scale per block of 32
inputs, chosen from a few clipping points so that the squared error is least. fp8 has one scale per output, with the
largest weight at code 448. The result is what ONNX's DequantizeLinear takes, which ONNX
Runtime and TensorRT both read. Matrices whose inputs are known are rounded to int4 by ``compensation`` instead.
"""

# K inputs of a linear layer, N outputs, G blocks of B inputs.
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from spectr_export.original.formats.blocks import Form
from spectr_export.storing.levels import BLOCK, Chooser, asymmetric, positive, symmetric
from spectr_export.storing.packing import join_codes
from spectr_runtime.bundle.e4m3 import LARGEST, encode
from spectr_runtime.bundle.weights import CODES, MINIMA, SCALES
from spectr_runtime.errors import BundleError

FORMS = {
    "int8": Form("int8"),
    "int4": Form("int4", BLOCK),
    "int4-asymmetric": Form("int4", BLOCK, minima=True),
    "fp8": Form("fp8"),
}
CHOOSERS: dict[str, Chooser] = {"int4": symmetric, "int4-asymmetric": asymmetric}


def quantisable(model: Any, quantisation: str) -> set[str]:
    """Return the names of the linear layers' matrices that are quantised.

    Embeddings are not quantised, nor is the matrix that gives the logits, because the quality of a model depends most
    on them; ``head_to_quantise`` is for int8. Neither is a matrix whose inputs do not fill whole blocks.

    Raises:
        BundleError: There are no such matrices.
    """
    head = model.get_output_embeddings()
    found = {
        f"{name}.weight"
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head and fits(layer_sizes(module), quantisation)
    }
    if not found:
        raise _nothing_fits(model, quantisation)
    return found


def head_to_quantise(model: Any, quantisation: str) -> str | None:
    """Return the name of the matrix that gives the logits if it is quantised, as in int8; None if it is not.

    It is a matrix of its own even where the model's is that of the embedding. A model with its inputs first (GPT-2)
    keeps it as it is, since this one matrix has its outputs first.
    """
    head = model.get_output_embeddings()
    if quantisation != "int8" or has_inputs_first(model) or not isinstance(head, nn.Linear):
        return None
    return next(f"{name}.weight" for name, module in model.named_modules() if module is head)


def is_tied(model: Any) -> bool:
    """Return whether the matrix that gives the logits is that of the embedding."""
    head = model.get_output_embeddings()
    return head is not None and head.weight is model.get_input_embeddings().weight


def _nothing_fits(model: Any, quantisation: str) -> BundleError:
    layers = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D))
    name, layer = next(layers)
    outputs, inputs = layer_sizes(layer)
    return BundleError(
        f"No layer of the {model.config.model_type} model can be stored in {quantisation}, which needs a multiple of "
        f"{BLOCK} inputs and an even number of outputs: {name}.weight, for instance, has {inputs} and {outputs}.",
        hint="Store it in int8, which takes every width, or without quantisation.",
    )


def has_inputs_first(model: Any) -> bool:
    """Return whether the layers of a model keep their matrices as [K, N], as those of GPT-2 do, and not as [N, K]."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def layer_sizes(module: nn.Linear | Conv1D) -> torch.Size:
    """Return the outputs and inputs of a layer."""
    return module.weight.shape if isinstance(module, nn.Linear) else module.weight.T.shape


def quantise(
    matrix_NK: torch.Tensor, quantisation: str, dtype: torch.dtype, *, largest: int = 127
) -> dict[str, torch.Tensor]:
    """Return the codes, the scales and perhaps the minima of a matrix, as ``spectr_runtime.bundle.weights`` reads them.

    Args:
        matrix_NK: The matrix of a linear layer, in any type.
        quantisation: A name of ``FORMS``.
        dtype: Type of scales and minima.
        largest: The largest code of int8.

    Returns:
        The tensors by their suffixes.
    """
    matrix_KN = matrix_NK.float().T.contiguous()
    if quantisation == "int8":
        scales_N = positive((matrix_KN.abs().amax(0) / largest).to(dtype))
        return {CODES: _round(matrix_KN, scales_N.float(), largest).to(torch.int8), SCALES: scales_N}
    if quantisation == "fp8":
        scales_N = scale_to(matrix_KN.abs().amax(0), dtype)
        return {CODES: encode(matrix_KN, scales_N), SCALES: scales_N}
    inputs, outputs = matrix_KN.shape
    blocks_GBN = matrix_KN.view(inputs // BLOCK, BLOCK, outputs)
    levels = CHOOSERS[quantisation](blocks_GBN, dtype)
    codes_KN = levels.encode(blocks_GBN).view(inputs, outputs).to(torch.int8)
    scales_GN, minima_GN = (part[:, 0].to(dtype) for part in (levels.scales, levels.minima))
    return named(codes_KN, scales_GN, minima_GN, quantisation)


def named(
    codes_KN: torch.Tensor, scales_GN: torch.Tensor, minima_GN: torch.Tensor, quantisation: str
) -> dict[str, torch.Tensor]:
    """Return the tensors of a matrix in int4 by their suffixes; the symmetric form has no minima."""
    minima = {MINIMA: minima_GN} if FORMS[quantisation].minima else {}
    return {CODES: join_codes(codes_KN), SCALES: scales_GN, **minima}


def scale_to(largest: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return scales of fp8 in a type, such that the largest numbers get the largest code."""
    return positive((largest / LARGEST).to(dtype))


def _round(weights: torch.Tensor, scales: torch.Tensor, largest: int) -> torch.Tensor:
    """Return the nearest codes from -largest to largest."""
    return (weights / scales).round_().clamp_(-largest, largest)


def fits(sizes: Sequence[int], quantisation: str) -> bool:
    """Return whether a matrix of so many outputs and inputs can be stored in a quantisation."""
    outputs, inputs = sizes
    return quantisation not in CHOOSERS or (inputs % BLOCK == 0 and outputs % 2 == 0)
