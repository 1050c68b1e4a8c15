"""Rounds the inputs of products in fp8, with a QuantizeLinear and a DequantizeLinear, and removes that rounding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
from onnxscript import ir

from spectr_export.graph.initializers import as_initializer, external_tensor
from spectr_export.weights import read_header
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.bundle.weights import CODES, INPUT, read_input_scales

E4M3 = ir.DataType.FLOAT8E4M3FN


def round_products(graph: ir.Model, stored_names: Mapping[str, str], folder: Path) -> None:
    """Let every product with a matrix in fp8 read its other input rounded to E4M3.

    TensorRT turns the two nodes and the product into one product in fp8. Products with the same input and the same
    scale share the two nodes.

    Args:
        graph: The graph, with a DequantizeLinear for every quantised matrix; changed in place.
        stored_names: The name in the file of every weight in the graph.
        folder: Folder of the file.
    """
    header, scales = read_header(folder / WEIGHTS), read_input_scales(folder / WEIGHTS)
    if not scales:
        return  # no matrix in fp8, or a checkpoint's own that are multiplied with inputs as they are
    rounded: dict[tuple[ir.Value, float], ir.Value] = {}
    products = [(product, stored_names[own]) for product, own in _products(graph.graph)]
    assert {name for _, name in products} == scales.keys(), "the graph uses a matrix in fp8 other than in a product"
    for product, name in products:
        given = product.inputs[0]
        assert given is not None
        assert given.dtype is not None
        key = (given, float(scales[name]))
        if key not in rounded:
            scale = as_initializer(external_tensor(name + INPUT, given.dtype, header[name + INPUT], folder))
            rounded[key] = _round(graph.graph, given, scale, before=product)
        product.replace_input_with(0, rounded[key])


def drop_rounding(data: bytes) -> bytes:
    """Return a graph whose products read their inputs without rounding.

    Args:
        data: A graph in ONNX's format; a graph without rounded inputs keeps its nodes.
    """
    model = onnx.load_from_string(data)
    nodes = model.graph.node
    given = {node.output[0]: node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    given |= {node.output[0]: given[node.input[0]] for node in nodes if node.input and node.input[0] in given}
    kept = [node for node in nodes if node.output[0] not in given]
    for node in kept:
        node.input[:] = [given.get(name, name) for name in node.input]
    read = {name for node in kept for name in node.input}
    initializers = [tensor for tensor in model.graph.initializer if tensor.name in read]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(kept)
    model.graph.initializer.extend(initializers)
    return bytes(model.SerializeToString())


def _products(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    """Yield the products with a matrix in fp8, each with the matrix's name in the graph."""
    for node in graph:
        matrix = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        source = matrix.producer() if matrix is not None else None
        codes = source.inputs[0] if source is not None and source.op_type == "DequantizeLinear" else None
        if codes is not None and codes.dtype == E4M3:
            assert codes.name is not None
            yield node, codes.name.removesuffix(CODES)


def _round(graph: ir.Graph, given: ir.Value, scale: ir.Value, before: ir.Node) -> ir.Value:
    graph.register_initializer(scale)
    # The type is given by an attribute and not by a zero point, because ONNX Runtime takes codes with a zero point of 0
    # to be unsigned, and then drops a Relu before them.
    codes = ir.node("QuantizeLinear", [given, scale], {"output_dtype": E4M3.value})
    numbers = ir.node("DequantizeLinear", [codes.outputs[0], scale])
    codes.outputs[0].dtype, numbers.outputs[0].type = E4M3, given.type
    for node in (codes, numbers):
        node.outputs[0].shape = given.shape
    graph.insert_before(before, (codes, numbers))
    return numbers.outputs[0]
