"""Integer products for ONNX Runtime's CPU provider, in place of those of int8 graphs.

A graph in int8 is stored so that every runtime reads it: operators on floating-point numbers round each row of what a
product multiplies (``spectr_runtime.bundle.rows``), and a DequantizeLinear makes numbers of the codes of the matrix.
Here the codes of both are multiplied, which is faster and exact: a sum of integers is the same in any order, so that a
row's result does not depend on the rows beside it. Products of one input become one product of all their matrices side
by side, which ONNX Runtime joins when it opens the graph.

Opening a graph without such products changes nothing.
"""

# K inputs of a matrix, N outputs.
from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from spectr_runtime.bundle.rows import BASE, LEVELS

# ONNX Runtime's own operators, among them MatMulIntegerToFloat.
DOMAIN = "com.microsoft"
ZERO = 128  # the code of 0 among unsigned codes of inputs, for which there are faster kernels than for signed ones


@dataclasses.dataclass(frozen=True, slots=True)
class Rounded:
    """A value of a graph whose rows are rounded.

    Attributes:
        source: Name of what is rounded.
        scaled: Name of the same in steps of the row's scale.
        largest: Name of the largest magnitude of each row, which is positive.
        levels: Name of the largest code.
    """

    source: str
    scaled: str
    largest: str
    levels: str


@dataclasses.dataclass(frozen=True, slots=True)
class _Product:
    """A product of rounded rows and a matrix of codes with a scale for each output.

    Attributes:
        node: The node that multiplies.
        codes: The matrix's codes [K, N].
        scales: Name of the scales [N].
    """

    node: NodeProto
    codes: TensorProto
    scales: str


def with_integer_products(data: bytes) -> bytes:
    """Return a graph in ONNX's format with integer products for products of rounded rows; other graphs as they are.

    Args:
        data: The graph.
    """
    model = onnx.load_from_string(data)
    alike = _find_products(model.graph)
    if not alike:
        return data
    nodes = dict(zip((products[0].node.output[0] for products in alike.values()), alike, strict=True))
    rounded = find_rounded(model.graph)
    replaced = {product.node.output[0] for products in alike.values() for product in products}
    kept: list[NodeProto] = []
    for node in model.graph.node:
        if node.output[0] in nodes:
            name = nodes[node.output[0]]
            kept += _multiply(name, rounded[name], alike[name], model.graph)
        elif node.output[0] not in replaced:
            kept.append(node)
    del model.graph.node[:]
    model.graph.node.extend(kept)
    drop_unread(model.graph)
    model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    return bytes(model.SerializeToString())


def find_rounded(graph: GraphProto) -> dict[str, Rounded]:
    """Return the values of a graph that are rounded by rows, by their names."""
    makers = {name: node for node in graph.node for name in node.output}

    def parts(name: str, *operators: str) -> Sequence[str]:
        """Return the inputs of the node that makes a value, or nothing if it is none of these operators."""
        node = makers.get(name)
        return list(node.input) if node is not None and node.op_type in operators else ("", "")

    found = {}
    for node in graph.node:
        codes, step = (*node.input, "", "")[:2] if node.op_type == "Mul" else ("", "")
        scaled, *_ = parts(codes, "Round")
        source, inverse = parts(scaled, "Mul")
        levels, largest = parts(inverse, "Div")
        magnitudes, *_ = parts(parts(largest, "Max")[0], "ReduceMax")
        if source and list(parts(step, "Div")) == [largest, levels] and parts(magnitudes, "Abs")[0] == source:
            found[node.output[0]] = Rounded(source, scaled, largest, levels)
    return found


def drop_unread(graph: GraphProto) -> None:
    """Remove the nodes and initializers of a graph that none of its outputs needs."""
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(filter(None, node.input))
            kept.append(node)
    initializers = [tensor for tensor in graph.initializer if tensor.name in needed]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(reversed(kept))
    graph.initializer.extend(initializers)


def _find_products(graph: GraphProto) -> Mapping[str, Sequence[_Product]]:
    """Return the products of rounded rows and matrices in int8, by the names of the rows."""
    makers = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    rounded = find_rounded(graph)
    alike: dict[str, list[_Product]] = defaultdict(list)
    for node in graph.node:
        if node.op_type not in ("MatMul", "Gemm") or node.input[0] not in rounded:
            continue
        matrix = makers.get(node.input[1])
        codes, scales = matrix.input if matrix is not None and matrix.op_type == "DequantizeLinear" else ("", "")
        if codes and tensors[codes].data_type == TensorProto.INT8 and len(tensors[scales].dims) == 1:
            alike[node.input[0]].append(_Product(node, tensors[codes], scales))
    return alike


def _multiply(name: str, rounded: Rounded, products: Sequence[_Product], graph: GraphProto) -> Iterator[NodeProto]:
    """Yield the nodes that multiply the rows of one value with all of its matrices.

    ONNX Runtime's search for the largest magnitude passes over what is no number. So that this does not vanish, the
    rows are multiplied with zeros besides, which gives 0 or no number.
    """
    inputs = products[0].codes.dims[0]
    zeros_K1 = constant(graph, f"integer.zeros.{inputs}", TensorProto.FLOAT, [inputs, 1], [0.0] * inputs)
    steps = f"{name}.steps"
    matrix, scales = products[0].codes.name, products[0].scales
    if len(products) > 1:
        matrix, scales = f"{name}.matrix", f"{name}.scales"
        yield helper.make_node("Concat", [product.codes.name for product in products], [matrix], axis=1)
        yield helper.make_node("Concat", [product.scales for product in products], [scales], axis=0)
    yield helper.make_node("Div", [scales, rounded.levels], [steps])
    yield helper.make_node("MatMul", [rounded.source, zeros_K1], [f"{name}.sound"])
    yield helper.make_node("Add", [rounded.largest, f"{name}.sound"], [f"{name}.checked"])
    (levels,) = (numpy_helper.to_array(tensor) for tensor in graph.initializer if tensor.name == rounded.levels)
    parts = _parts(products)
    result = parts[0] if len(parts) == 1 else f"{name}.joined"
    if levels <= LEVELS:
        yield from _one_digit(name, rounded, (matrix, steps), result, graph)
    else:
        yield from _two_digits(name, rounded, (matrix, steps), result, graph)
    if len(parts) > 1:
        widths = [product.codes.dims[1] for product in products]
        sizes = constant(graph, f"{name}.sizes", TensorProto.INT64, [len(widths)], widths)
        yield helper.make_node("Split", [result, sizes], parts, axis=-1)
    for product, part in zip(products, parts, strict=True):
        if part not in product.node.output:
            yield helper.make_node("Add", [part, product.node.input[2]], product.node.output)


def _parts(products: Sequence[_Product]) -> list[str]:
    """Return the names of the products' results; a Gemm, which has a bias, adds it to one of another name."""
    biased = [len(product.node.input) > 2 for product in products]
    names = [product.node.output[0] for product in products]
    return [f"{own}.product" if adds else own for own, adds in zip(names, biased, strict=True)]


def _one_digit(
    name: str, rounded: Rounded, matrix: tuple[str, str], result: str, graph: GraphProto
) -> Iterator[NodeProto]:
    """Yield the nodes that round rows to codes of 8 bits and multiply with a matrix of codes and its scales."""
    codes, sums = f"{name}.codes", f"{name}.sums"
    one, zero = _number(graph, 1.0), constant(graph, "integer.zero", TensorProto.UINT8, [], [ZERO])
    yield helper.make_node("QuantizeLinear", [rounded.scaled, one, zero], [codes])
    yield helper.make_node("MatMulIntegerToFloat", [codes, matrix[0], one, matrix[1], zero], [sums], domain=DOMAIN)
    yield helper.make_node("Mul", [sums, f"{name}.checked"], [result])


def _two_digits(
    name: str, rounded: Rounded, matrix: tuple[str, str], result: str, graph: GraphProto
) -> Iterator[NodeProto]:
    """Yield the nodes that round rows to codes of two digits, each a row of its own, and multiply with a matrix.

    A matrix product of one row and two with the digits' results adds them up, in one pass over the outputs.
    """
    high, wide, rest, low, codes, sums, weights, added = (
        f"{name}.{made}" for made in ("high", "wide", "rest", "low", "codes", "sums", "weights", "added")
    )
    one, base, zero = _number(graph, 1.0), _number(graph, BASE), f"integer.zero.{BASE // 2}"
    constant(graph, zero, TensorProto.UINT8, [], [BASE // 2])
    digits = constant(graph, "integer.digits", TensorProto.FLOAT, [2], [BASE, 1.0])
    axis = constant(graph, "integer.axis", TensorProto.INT64, [1], [-2])
    yield helper.make_node("QuantizeLinear", [rounded.scaled, base, zero], [high])
    yield helper.make_node("DequantizeLinear", [high, base, zero], [wide])
    yield helper.make_node("Sub", [rounded.scaled, wide], [rest])
    yield helper.make_node("QuantizeLinear", [rest, one, zero], [low])
    for digit in (high, low):
        yield helper.make_node("Unsqueeze", [digit, axis], [f"{digit}.row"])
    yield helper.make_node("Concat", [f"{high}.row", f"{low}.row"], [codes], axis=-2)
    yield helper.make_node("MatMulIntegerToFloat", [codes, matrix[0], one, matrix[1], zero], [sums], domain=DOMAIN)
    yield helper.make_node("Mul", [f"{name}.checked", digits], [weights])
    yield helper.make_node("Unsqueeze", [weights, axis], [f"{weights}.row"])
    yield helper.make_node("MatMul", [f"{weights}.row", sums], [added])
    yield helper.make_node("Squeeze", [added, axis], [result])


def _number(graph: GraphProto, number: float) -> str:
    """Return the name of an initializer that holds a number in float32."""
    return constant(graph, f"integer.{number:g}", TensorProto.FLOAT, [], [number])


def constant(graph: GraphProto, name: str, kind: int, shape: Sequence[int], numbers: Sequence[float]) -> str:
    """Return the name of an initializer, which is made if it is not there."""
    if not any(tensor.name == name for tensor in graph.initializer):
        graph.initializer.append(helper.make_tensor(name, kind, shape, numbers))
    return name
