"""Quantised matrices in a graph: a DequantizeLinear in place of each, which reads the codes where the file has them."""

# K inputs of a linear layer, N outputs.
from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from onnxscript import ir
from safetensors import safe_open

from spectr_export.weights import Place
from spectr_runtime.weights import CODES, SCALES, WEIGHTS


def read_undecoded(path: Path) -> dict[str, torch.Tensor]:
    """The weights of a model, with a stand-in of the right shape and type for each quantised matrix, to trace with."""
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in [name.removesuffix(CODES) for name in stored if name.endswith(CODES)]:
        codes, scales = stored.pop(name + CODES), stored.pop(name + SCALES)
        stored[name] = scales.new_zeros(1).expand(scales.shape[-1], len(codes))
    return stored


def dequantise_weight(graph: ir.Model, weight: ir.Value, name: str, places: Mapping[str, Place], folder: Path) -> None:
    """Replace a linear layer's weight [N, K] by what DequantizeLinear makes of its codes [K, N].

    The tracer turns a linear layer's weight before it multiplies. That turn is dropped, so that the product reads the
    dequantised matrix itself: the form in which ONNX Runtime and TensorRT fuse the two.

    Args:
        graph: The graph.
        weight: The weight among its initializers.
        name: The weight's name in the file, without the suffixes of its two parts.
        places: Where the file's tensors stand.
        folder: Folder of the file.
    """
    codes_place, scales_place = places[name + CODES], places[name + SCALES]
    shape = (codes_place.shape[0], scales_place.shape[-1])
    assert weight.dtype is not None
    whole = codes_place.dtype == "I8"
    blocks = {"axis": 1} if whole else {"axis": 0, "block_size": shape[0] // scales_place.shape[0]}
    dtype = ir.DataType.INT8 if whole else ir.DataType.INT4
    codes = external(f"{weight.name}{CODES}", dtype, shape, codes_place, folder)
    scales = external(f"{weight.name}{SCALES}", weight.dtype, scales_place.shape, scales_place, folder)
    node = ir.node("DequantizeLinear", [codes, scales], blocks)
    matrix_KN = node.outputs[0]
    matrix_KN.dtype, matrix_KN.shape = weight.dtype, ir.Shape(shape)
    for value in (codes, scales):
        graph.graph.register_initializer(value)
    graph.graph.insert_before(graph.graph[0], node)
    for user, place in tuple(weight.uses()):
        _read_turned(graph, user, place, matrix_KN)
    graph.graph.initializers.pop(str(weight.name))


def external(name: str, dtype: ir.DataType, shape: tuple[int, ...], place: Place, folder: Path) -> ir.Value:
    """An initializer whose data stands in ``model.safetensors``."""
    data = ir.ExternalTensor(
        WEIGHTS, place.offset, place.length, dtype, shape=ir.Shape(shape), name=name, base_dir=folder
    )
    return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape), const_value=data)


def _read_turned(graph: ir.Model, user: ir.Node, place: int, matrix_KN: ir.Value) -> None:
    """Let a node that read the weight [N, K] read the matrix [K, N]."""
    if user.op_type == "Transpose":
        user.outputs[0].replace_all_uses_with(matrix_KN)
        graph.graph.remove(user, safe=True)
    elif user.op_type == "Gemm" and place == 1:
        user.replace_input_with(1, matrix_KN)
        user.attributes["transB"] = ir.AttrInt64("transB", 0)
    else:
        turn = ir.node("Transpose", [matrix_KN], {"perm": [1, 0]})
        graph.graph.insert_before(user, turn)
        user.replace_input_with(place, turn.outputs[0])
