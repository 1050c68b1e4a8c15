"""Joins matrix products that have the same input, for instance those of queries, keys and values.

The weights stay in the file. A node concatenates them, which a runtime folds when it loads the graph, so that nothing
is stored twice.
"""

# E input size, F output sizes side by side.
from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence

from onnxscript import ir


@dataclasses.dataclass(frozen=True, slots=True)
class _Product:
    """A traced linear layer.

    Attributes:
        node: The product of the input and the transposed weight.
        weight_FE: The weight as it is stored.
        sum: The node that adds the bias; None for a layer without bias.
        bias_F: The bias, or None.
    """

    node: ir.Node
    weight_FE: ir.Value
    sum: ir.Node | None = None
    bias_F: ir.Value | None = None

    @property
    def output(self) -> ir.Value:
        return (self.sum or self.node).outputs[0]


def merge_products(graph: ir.Model) -> None:
    """Join the products that share their input, those with a bias and those without one apart, in place."""
    alike: dict[tuple[ir.Value, bool], list[_Product]] = defaultdict(list)
    for node in graph.graph:
        product = _read(node)
        if product is not None:
            shared = node.inputs[0]
            assert shared is not None
            alike[shared, product.sum is not None].append(product)
    for (shared, _), products in alike.items():
        if len(products) > 1:
            _join(graph.graph, shared, products)


def _read(node: ir.Node) -> _Product | None:
    transposed = node.inputs[1].producer() if node.op_type == "MatMul" and node.inputs[1] is not None else None
    weight_FE = transposed.inputs[0] if transposed is not None and transposed.op_type == "Transpose" else None
    if weight_FE is None or not weight_FE.is_initializer() or len(_sizes(weight_FE)) != 2:
        return None
    users = node.outputs[0].consumers()
    if len(users) == 1 and users[0].op_type == "Add":
        biases = [value for value in users[0].inputs if value is not None and value.is_initializer()]
        if len(biases) == 1 and _sizes(biases[0]) == _sizes(weight_FE)[:1]:
            return _Product(node, weight_FE, users[0], biases[0])
    return _Product(node, weight_FE)


def _join(graph: ir.Graph, shared: ir.Value, products: Sequence[_Product]) -> None:
    tape = ir.tape.Tape()
    weight_FE = tape.op("Concat", [product.weight_FE for product in products], {"axis": 0})
    joined = tape.op("MatMul", [shared, tape.op("Transpose", [weight_FE], {"perm": [1, 0]})])
    if products[0].sum is not None:
        joined = tape.op("Add", [joined, tape.op("Concat", [product.bias_F for product in products], {"axis": 0})])
    sizes = ir.tensor([_sizes(product.weight_FE)[0] for product in products], ir.DataType.INT64)
    parts = tape.op_multi_out(
        "Split", [joined, tape.op("Constant", [], {"value": sizes})], {"axis": -1}, num_outputs=len(products)
    )
    graph.insert_before(products[0].node, tape.nodes)
    for product, part in zip(products, parts, strict=True):
        part.shape, part.type = product.output.shape, product.output.type
        product.output.replace_all_uses_with(part)


def _sizes(weight: ir.Value) -> tuple[int, ...]:
    return () if weight.shape is None else weight.shape.numpy()
