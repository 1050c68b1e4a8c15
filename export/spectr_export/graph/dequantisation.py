"""Puts a DequantizeLinear in place of every quantised matrix of a graph; it reads the codes from the model's file."""

# K inputs of a linear layer, N outputs.
from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from onnxscript import ir
from onnxscript.ir import passes

from spectr_export.graph.initializers import as_initializer, external_tensor, read_integer
from spectr_export.weights import TensorEntry, read_header
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.bundle.stacks import is_up, stack_shape
from spectr_runtime.bundle.weights import CODES, E4M3, MINIMA, SCALES, layer_shape, read_stored

# The type of the codes in the graph, by the type that safetensors gives for their bytes.
CODE_TYPES = {"I8": ir.DataType.INT8, "U8": ir.DataType.INT4, E4M3: ir.DataType.FLOAT8E4M3FN}


def read_undecoded(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights for tracing: each quantised matrix is a stand-in of the right shape and type, without data."""
    stored, order = read_stored(path)
    for name in [name.removesuffix(CODES) for name in stored if name.endswith(CODES)]:
        codes, scales = stored.pop(name + CODES), stored.pop(name + SCALES)
        stored.pop(name + MINIMA, None)
        stack = codes.dim() > 2
        shape = (
            stack_shape(codes, scales, up=is_up(name), inputs_first=order.experts)
            if stack
            else layer_shape(codes, scales, order)
        )
        stored[name] = scales.new_zeros(1).expand(shape)
    return stored


def dequantise_weight(
    graph: ir.Model, weight: ir.Value, name: str, header: Mapping[str, TensorEntry], folder: Path, *, inputs_first: bool
) -> None:
    """Replace a layer's weight by the output of a DequantizeLinear of its codes [K, N].

    A traced graph transposes the weight [N, K] of a linear layer before the product. That node is dropped, so that the
    product reads the dequantised matrix itself, which is the form in which ONNX Runtime and TensorRT fuse the two.

    Args:
        graph: The graph.
        weight: The weight, an initializer of the graph.
        name: The weight's name in the file, without the suffixes of the codes and the scales.
        header: The entries of the file.
        folder: Folder of the file.
        inputs_first: Whether the model keeps the weight as [K, N], in the order of its codes.
    """
    assert weight.dtype is not None
    node = _dequantise(str(weight.name), weight.dtype, header[name + CODES], header[name + SCALES], folder)
    _insert(graph, node, graph.graph[0])
    for user, index in tuple(weight.uses()):
        if inputs_first:
            user.replace_input_with(index, node.outputs[0])
        else:
            _read_transposed(graph, user, index, node.outputs[0])
    if name + MINIMA in header:
        minima = external_tensor(f"{weight.name}{MINIMA}", weight.dtype, header[name + MINIMA], folder)
        _add_minima(graph, node, as_initializer(minima))
    graph.graph.initializers.pop(str(weight.name))


def dequantise_stacks(graph: ir.Model, stored_names: Mapping[str, str], folder: Path) -> None:
    """Let every product of a mixture read the output of a DequantizeLinear of its codes.

    The nodes that slice and transpose a stack of experts are dropped, because the file holds the matrix of each product
    in the form that the product needs.

    Args:
        graph: The graph, with folded constants; changed in place.
        stored_names: The name in the file of every weight in the graph.
        folder: Folder of the file.
    """
    header = read_header(folder / WEIGHTS)
    for own, name in stored_names.items():
        if not is_stack(name, header):
            continue
        weight, codes, scales = graph.graph.initializers[own], header[name + CODES], header[name + SCALES]
        assert weight.dtype is not None
        for product, reader in enumerate(_readers(weight)):
            matrix = (math.prod(codes.shape[1 : 2 if is_up(name) else 3]), scales.shape[-1])
            parts = (_product(codes, product, matrix), _product(scales, product, scales.shape[1:]))
            node = _dequantise(f"{own}.{product}", weight.dtype, *parts, folder)
            _insert(graph, node, reader)
            reader.replace_input_with(1, node.outputs[0])
    passes.common.RemoveUnusedNodesPass()(graph)


def is_stack(name: str, header: Mapping[str, TensorEntry]) -> bool:
    """Return whether a weight of the file is a quantised stack of experts."""
    return name + CODES in header and len(header[name + CODES].shape) > 2


def _readers(stack: ir.Value) -> list[ir.Node]:
    """Return the products that read a stack or slices of it, in the order of the experts."""
    readers = []
    for use in stack.uses():
        start, user = 0, use.node
        while user.op_type != "MatMul":
            assert user.op_type in ("Slice", "Transpose", "Reshape"), f"{user.op_type} reads {stack.name}"
            start = read_integer(user.inputs[1]) if user.op_type == "Slice" else start
            (user,) = user.outputs[0].consumers()
        readers.append((start, user))
    return [reader for _, reader in sorted(readers, key=lambda pair: pair[0])]


def _product(entry: TensorEntry, product: int, shape: tuple[int, ...]) -> TensorEntry:
    """Return the entry of one product's codes or scales, a part of the entry of the whole stack."""
    length = entry.length // entry.shape[0]
    return TensorEntry(entry.offset + product * length, length, shape, entry.dtype)


def _dequantise(
    name: str, dtype: ir.DataType, codes_entry: TensorEntry, scales_entry: TensorEntry, folder: Path
) -> ir.Node:
    """Return the node that makes a matrix [K, N] of its codes and scales."""
    shape = (codes_entry.shape[0], scales_entry.shape[-1])
    codes_type = CODE_TYPES[codes_entry.dtype]
    groups = scales_entry.shape[0] if len(scales_entry.shape) == 2 else None
    blocks = {"axis": 0, "block_size": shape[0] // groups} if groups else {"axis": 1}
    codes = external_tensor(f"{name}{CODES}", codes_type, codes_entry, folder, shape=shape)
    scales = external_tensor(f"{name}{SCALES}", dtype, scales_entry, folder)
    node = ir.node("DequantizeLinear", [as_initializer(codes), as_initializer(scales)], blocks)
    node.outputs[0].dtype, node.outputs[0].shape = dtype, ir.Shape(shape)
    return node


def _add_minima(graph: ir.Model, dequantised: ir.Node, minima: ir.Value) -> None:
    """Add to every product with a matrix what its minima contribute: the sums of each block's inputs times them.

    So a runtime can still fuse the dequantisation with the product. Layers that share their inputs share the sums once
    common nodes are joined.
    """
    assert minima.shape is not None
    graph.graph.register_initializer(minima)
    (matrix,) = dequantised.outputs
    assert matrix.shape is not None
    groups = minima.shape[0]
    assert isinstance(groups, int)
    for product, _ in tuple(matrix.uses()):
        (inputs, *_), (output,) = product.inputs, product.outputs
        assert inputs is not None
        assert inputs.shape is not None
        parted = [*[0] * (len(inputs.shape) - 1), groups, -1]
        blocks = ir.node("Reshape", [inputs, _constant(graph, output, "blocks", parted)])
        sums = ir.node("ReduceSum", [blocks.outputs[0], _constant(graph, output, "axes", [-1])], {"keepdims": 0})
        offset = ir.node("MatMul", [sums.outputs[0], minima])
        total = ir.node("Add", [output, offset.outputs[0]])
        for made in (offset, total):
            made.outputs[0].type, made.outputs[0].shape = output.type, output.shape
        output.replace_all_uses_with(total.outputs[0])
        total.replace_input_with(0, output)
        graph.graph.insert_after(product, [blocks, sums, offset, total])


def _constant(graph: ir.Model, beside: ir.Value, what: str, numbers: list[int]) -> ir.Value:
    """Return an initializer of the graph that holds integers."""
    name = f"{beside.name}.{what}"
    value = ir.Value(name=name, const_value=ir.tensor(numbers, ir.DataType.INT64, name=name))
    graph.graph.initializers[name] = value
    return value


def _insert(graph: ir.Model, node: ir.Node, before: ir.Node) -> None:
    for value in node.inputs:
        assert value is not None
        graph.graph.register_initializer(value)
    graph.graph.insert_before(before, node)


def _read_transposed(graph: ir.Model, user: ir.Node, index: int, matrix_KN: ir.Value) -> None:
    """Let a node that reads the weight [N, K] as its input ``index`` read the matrix [K, N] instead."""
    if user.op_type == "Transpose":
        user.outputs[0].replace_all_uses_with(matrix_KN)
        graph.graph.remove(user, safe=True)
    elif user.op_type == "Gemm" and index == 1:
        user.replace_input_with(1, matrix_KN)
        user.attributes["transB"] = ir.AttrInt64("transB", 0)
    else:
        transpose = ir.node("Transpose", [matrix_KN], {"perm": [1, 0]})
        graph.graph.insert_before(user, transpose)
        user.replace_input_with(index, transpose.outputs[0])
