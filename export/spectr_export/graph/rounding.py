"""Rounded inputs in a graph: a QuantizeLinear and a DequantizeLinear before every product in fp8, and none of them."""

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

    TensorRT makes one product in fp8 of the three nodes. Products of one input that have the same scale share them.

    Args:
        graph: The graph, its quantised matrices dequantised; changed in place.
        stored_names: The names in the file of the weights in the graph.
        folder: Folder of the file.
    """
    header, scales = read_header(folder / WEIGHTS), read_input_scales(folder / WEIGHTS)
    rounded: dict[tuple[ir.Value, float], ir.Value] = {}
    products = [(product, stored_names[own]) for product, own in _products(graph.graph)]
    assert {name for _, name in products} == scales.keys(), "a matrix in fp8 is multiplied with where no product shows"
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
    """A graph whose products read their inputs as they are.

    Args:
        data: A graph in ONNX's format; one without rounded inputs stays as it is.
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
    """Products with a matrix in fp8, and the matrix' name in the graph."""
    for node in graph:
        matrix = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        source = matrix.producer() if matrix is not None else None
        codes = source.inputs[0] if source is not None and source.op_type == "DequantizeLinear" else None
        if codes is not None and codes.dtype == E4M3:
            assert codes.name is not None
            yield node, codes.name.removesuffix(CODES)


def _round(graph: ir.Graph, given: ir.Value, scale: ir.Value, before: ir.Node) -> ir.Value:
    graph.register_initializer(scale)
    # Its type is no zero point's: where one is 0, ONNX Runtime takes the codes to have no sign and drops a Relu before.
    codes = ir.node("QuantizeLinear", [given, scale], {"output_dtype": E4M3.value})
    numbers = ir.node("DequantizeLinear", [codes.outputs[0], scale])
    codes.outputs[0].dtype, numbers.outputs[0].type = E4M3, given.type
    for node in (codes, numbers):
        node.outputs[0].shape = given.shape
    graph.insert_before(before, (codes, numbers))
    return numbers.outputs[0]
