"""The checkpoints of compressed-tensors, as llm-compressor writes them: int4, int8 and fp8.

The package itself says which layers are quantised, unpacks their codes, and dequantises them. What a scheme rounds
beside the weights, the inputs of a layer, is not rounded here: the weights alone are the checkpoint's.
"""

# K inputs, N outputs, G blocks.
from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from typing import Any

import torch

from spectr_export.original.formats.blocks import Blocks, QuantisedMatrix, fitting_form
from spectr_runtime.errors import BundleError, EngineError, first_line

PACKED, PLAIN = "weight_packed", "weight"
PARTS = (PACKED, PLAIN, "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized")
STRATEGIES = ("tensor", "channel", "group", "block")
ANOTHER = "Use the checkpoint that it was quantised from, or one with int4, int8 or fp8 weights."
Tensors = Mapping[str, torch.Tensor]


def read_compressed(
    tensors: Tensors, settings: Mapping[str, Any], model: Any
) -> dict[str, torch.Tensor | QuantisedMatrix]:
    """Return the tensors of a checkpoint, with a matrix in place of each quantised layer's.

    Args:
        tensors: The tensors by their names in the checkpoint.
        settings: Its ``quantization_config``.
        model: The causal LM on the meta device.

    Raises:
        EngineError: The package is not installed.
        BundleError: The package cannot read the settings, or a layer is quantised in another way.
    """
    schemes = _schemes(settings, model)
    found: dict[str, torch.Tensor | QuantisedMatrix] = {}
    for name, tensor in tensors.items():
        path, _, last = name.rpartition(".")
        own = _own(path, tensors)
        if "weight_scale" not in own or last not in PARTS:
            found[name] = tensor
        elif last in (PACKED, PLAIN):
            found[f"{path}.weight"] = _matrix(path, own, schemes.get(path), settings)
    return found


def _schemes(settings: Mapping[str, Any], model: Any) -> Mapping[str, Any]:
    """Return the scheme of every quantised layer by its name, as the package gives them to a model."""
    try:
        from compressed_tensors.quantization import apply_quantization_config
    except ImportError as error:
        raise EngineError(
            f"The weights are in the format of compressed-tensors, which cannot be imported: {error}.",
            hint="Install it with `pip install 'spectr[compressed-tensors]'`.",
        ) from error
    from transformers.utils.quantization_config import CompressedTensorsConfig

    try:
        config: Any = CompressedTensorsConfig(**settings)
        own = config.quantization_config
        own.kv_cache_scheme = None  # the cache has the model's type
        marked = copy.deepcopy(model)
        apply_quantization_config(marked, own)
    except Exception as error:  # its own checks raise errors of many types
        raise BundleError(
            f"compressed-tensors cannot read the quantization_config: {first_line(error)}", hint=ANOTHER
        ) from error
    modules = marked.named_modules()
    return {name: module.quantization_scheme for name, module in modules if hasattr(module, "quantization_scheme")}


def _own(path: str, tensors: Tensors) -> dict[str, torch.Tensor]:
    """Return the tensors of the weight of a layer, by their names in it."""
    return {name: tensors[f"{path}.{name}"] for name in PARTS if f"{path}.{name}" in tensors}


def _matrix(path: str, own: Tensors, scheme: Any, settings: Mapping[str, Any]) -> QuantisedMatrix:
    weights = scheme.weights if scheme else None
    layout = (scheme.format if scheme else None) or settings.get("format")
    if weights is None or layout not in FORMATS or weights.strategy not in STRATEGIES or weights.num_bits > 8:
        raise BundleError(
            f"{path} is quantised in the format {layout!r} by {weights.strategy if weights else None!r}; read are "
            f"{', '.join(FORMATS)}, with up to 8 bits by {', '.join(STRATEGIES)}.",
            hint=ANOTHER,
        )
    if weights.type == "float" and own[PLAIN].dtype != torch.float8_e4m3fn:
        raise BundleError(f"{path} has floating-point codes that are not E4M3.", hint=ANOTHER)
    scale, packed = own["weight_scale"].float(), PACKED in own
    outputs, inputs = own["weight_shape"].tolist() if packed else own[PLAIN].shape
    scales_NG = _per_output(scale, weights, outputs)

    def unpack() -> Blocks:
        return Blocks(_codes(own, weights), scales_NG, _minima(own, weights, scales_NG))

    if "weight_g_idx" in own:
        return QuantisedMatrix.scattered((outputs, inputs), own["weight_g_idx"].long(), unpack)
    code = "fp8" if weights.type == "float" else "int4" if weights.num_bits <= 4 else "int8"
    form = fitting_form(code, (outputs, inputs), scales_NG.shape[1], minima=not weights.symmetric)
    read = functools.partial(_dequantise, {**own, "weight_scale": scale}, scheme, layout)
    return QuantisedMatrix((outputs, inputs), form, read, unpack)


def _dequantise(own: Tensors, scheme: Any, layout: str) -> torch.Tensor:
    """Return the matrix as the package gives it, in float32."""
    from compressed_tensors.compressors import BaseCompressor

    matrix: torch.Tensor = BaseCompressor.get_value_from_registry(layout).decompress(dict(own), scheme)[PLAIN]
    return matrix


def _codes(own: Tensors, weights: Any) -> torch.Tensor:
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    if PACKED not in own:
        return own[PLAIN]
    codes_NK: torch.Tensor = unpack_from_int32(own[PACKED], weights.num_bits, torch.Size(own["weight_shape"].tolist()))
    return codes_NK


def _minima(own: Tensors, weights: Any, scales_NG: torch.Tensor) -> torch.Tensor | None:
    from compressed_tensors.compressors.pack_quantized.helpers import unpack_from_int32

    if weights.symmetric:
        return None
    zeros = own["weight_zero_point"]
    if PACKED in own and weights.strategy in ("channel", "group"):
        zeros = unpack_from_int32(zeros, weights.num_bits, scales_NG.shape, packed_dim=0)
    return -scales_NG * _per_output(zeros.float(), weights, len(scales_NG))


def _per_output(values: torch.Tensor, weights: Any, outputs: int) -> torch.Tensor:
    """Return what a scheme has for the whole matrix, for outputs or for blocks, for each output: [N, G]."""
    if weights.strategy == "tensor":
        return values.reshape(1, 1).expand(outputs, 1)
    if weights.strategy == "block":
        return values.repeat_interleave(weights.block_structure[0], 0)[:outputs]
    return values.reshape(outputs, -1)
