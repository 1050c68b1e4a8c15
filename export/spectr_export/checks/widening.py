"""Rewrites a half-precision graph to float32, so that it can be checked on any machine.

ONNX Runtime has no bfloat16 on the CPU and little float16. The mistakes that a graph can have (a wrong mask, position
or weight) do not depend on the type of its numbers. So the same nodes are run on the same stored weights with every
half-precision value cast to float32, and then have to agree with PyTorch almost as closely as a float32 graph does.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
WIDE = ".wide"
# Nodes that only move numbers, and how many of their inputs hold the numbers (None: all). They run on half-precision
# numbers too, so their outputs are cast instead of their inputs: some rows of an embedding and not all of it, and a
# transposed matrix, which is then in memory only once.
MOVES = {"Gather": 1, "Reshape": 1, "Transpose": 1, "Concat": None}
# Attributes whose value is a type.
TYPE_ATTRIBUTES = ("to", "output_dtype", "dtype")


def widen(path: Path) -> bytes:
    """Return a graph with all its half-precision values in float32, which reads the same external data and casts them.

    Args:
        path: A graph whose weights are external data.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    # The recorded types of intermediate values are the old ones; ONNX Runtime infers the new ones itself.
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            _widen_attribute(attribute)
    halves = {tensor.name for tensor in graph.initializer if tensor.data_type in HALVES}
    nodes = [made for index, node in enumerate(graph.node) for made in _widened(node, index, halves)]
    del graph.node[:]
    graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _widened(node: NodeProto, index: int, halves: set[str]) -> Iterator[NodeProto]:
    """Yield casts of a node's half-precision inputs, then the node.

    No other node shares the casts, so that a runtime can free the wide numbers right after the node.
    """
    moved = node.input[: MOVES[node.op_type]] if node.op_type in MOVES else []
    if moved and halves.issuperset(moved):
        halves |= set(node.output)
    else:
        for number, name in enumerate(node.input):
            if name in halves:
                node.input[number] = f"{name}{WIDE}.{index}.{number}"
                yield helper.make_node("Cast", [name], [node.input[number]], to=TensorProto.FLOAT)
    yield node


def _widen_attribute(attribute: AttributeProto) -> None:
    if attribute.name in TYPE_ATTRIBUTES and attribute.i in HALVES:
        attribute.i = TensorProto.FLOAT
    if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in HALVES:
        attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype("float32")))
