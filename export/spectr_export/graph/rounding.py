"""Rounds the inputs of products in fp8 and int8, and removes that rounding.

fp8 takes a QuantizeLinear and a DequantizeLinear with a scale from the file, which TensorRT joins with the product to
one in fp8. In int8 the scale is that of the row, behind a division by scales from the file, and rounding is a chain of
operators on floating-point numbers, which every runtime has. ``spectr_runtime.engines.integer`` makes integer products
of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
from onnxscript import ir

from spectr_export.graph.initializers import as_initializer, external_tensor
from spectr_export.weights import read_header
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.bundle.rows import LEAST, read_levels
from spectr_runtime.bundle.weights import CODES, INPUT, read_channel_scales, read_input_scales
from spectr_runtime.engines.integer import drop_unread, find_rounded

E4M3 = ir.DataType.FLOAT8E4M3FN


def round_products(graph: ir.Model, stored_names: Mapping[str, str], folder: Path) -> None:
    """Let products with a matrix in fp8 or int8 read their other input rounded, as the weights file says.

    Products with the same input and the same scale or levels share what rounds it.

    Args:
        graph: The graph, with a DequantizeLinear for every quantised matrix; changed in place.
        stored_names: The name in the file of every weight in the graph.
        folder: Folder of the file.
    """
    header = read_header(folder / WEIGHTS)
    scales, levels = read_input_scales(folder / WEIGHTS), read_levels(folder / WEIGHTS)
    channels = read_channel_scales(folder / WEIGHTS, levels)
    known = {*scales, *levels}
    # The products of a mixture's experts have names of their own.
    products = [(node, name) for node, own in _products(graph.graph) if (name := stored_names.get(own)) in known]
    assert {name for _, name in products} == known, "the graph uses a matrix other than in a product"
    rounded: dict[tuple[ir.Value, float, bytes], ir.Value] = {}

    def stored(name: str, dtype: ir.DataType) -> ir.Value:
        value = as_initializer(external_tensor(name + INPUT, dtype, header[name + INPUT], folder))
        graph.graph.register_initializer(value)
        return value

    for product, name in products:
        given = product.inputs[0]
        assert given is not None
        assert given.dtype is not None
        divided = channels[name].float().numpy().tobytes() if name in channels else b""
        key = (given, float(scales[name]) if name in scales else levels[name], divided)
        if key not in rounded:
            if name in scales:
                rounded[key] = _to_e4m3(graph.graph, given, stored(name, given.dtype), before=product)
            else:
                scale = stored(name, given.dtype) if name in channels else None
                rounded[key] = _to_levels(graph.graph, given, scale, levels[name], before=product)
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
    given |= {name: rounded.source for name, rounded in find_rounded(model.graph).items()}
    for node in nodes:
        node.input[:] = [given.get(name, name) for name in node.input]
    drop_unread(model.graph)
    return bytes(model.SerializeToString())


def _products(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    """Yield the products with a quantised matrix, each with the matrix's name in the graph."""
    for node in graph:
        matrix = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        source = matrix.producer() if matrix is not None else None
        codes = source.inputs[0] if source is not None and source.op_type == "DequantizeLinear" else None
        if codes is not None and codes.name is not None and codes.is_initializer():
            yield node, codes.name.removesuffix(CODES)


def _to_e4m3(graph: ir.Graph, given: ir.Value, scale: ir.Value, before: ir.Node) -> ir.Value:
    # The type is given by an attribute and not by a zero point, because ONNX Runtime takes codes with a zero point of 0
    # to be unsigned, and then drops a Relu before them.
    codes = ir.node("QuantizeLinear", [given, scale], {"output_dtype": E4M3.value})
    numbers = ir.node("DequantizeLinear", [codes.outputs[0], scale])
    codes.outputs[0].dtype, numbers.outputs[0].type = E4M3, given.type
    for node in (codes, numbers):
        node.outputs[0].shape = given.shape
    graph.insert_before(before, (codes, numbers))
    return numbers.outputs[0]


def _to_levels(graph: ir.Graph, given: ir.Value, scale: ir.Value | None, levels: int, before: ir.Node) -> ir.Value:
    """Round the rows of a value as ``spectr_runtime.bundle.rows.round_rows`` does, in float32 whatever its type.

    Args:
        graph: The graph.
        given: The value.
        scale: What the value is divided by before, in its type; None for nothing. The quotient of a place that was idle
            when the scales were measured may leave half precision.
        levels: The largest code.
        before: The node that the new ones are put before.
    """
    wide, tape = ir.DataType.FLOAT, ir.tape.Tape()

    def constant(what: str, number: float | list[int], dtype: ir.DataType) -> ir.Value:
        return _constant(graph, f"rounding.{what}", ir.tensor(number, dtype))

    def widened(value: ir.Value) -> ir.Value:
        return value if value.dtype == wide else tape.op("Cast", [value], {"to": wide.value})

    numbers = widened(given) if scale is None else tape.op("Div", [widened(given), widened(scale)])
    most = constant(str(levels), float(levels), wide)
    axes = constant("axes", [-1], ir.DataType.INT64)
    largest = tape.op("ReduceMax", [tape.op("Abs", [numbers]), axes], {"keepdims": 1})
    largest = tape.op("Max", [largest, constant("least", LEAST, wide)])
    codes = tape.op("Round", [tape.op("Mul", [numbers, tape.op("Div", [most, largest])])])
    rounded = tape.op("Mul", [codes, tape.op("Div", [largest, most])])
    if given.dtype != wide:
        rounded = tape.op("Cast", [rounded], {"to": given.dtype.value})  # type: ignore[union-attr]
    rounded.shape, rounded.type = given.shape, given.type
    graph.insert_before(before, tape.nodes)
    return rounded


def _constant(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Return the initializer of a name, which is made if it is not there."""
    if name not in graph.initializers:
        graph.initializers[name] = ir.Value(name=name, const_value=tensor)
    return graph.initializers[name]
