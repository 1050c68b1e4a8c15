"""A half-precision graph in float32, so that it can be checked on any machine.

ONNX Runtime has no bfloat16 on the CPU and little float16. What can go wrong in a graph (a mask, a position, a weight
in the wrong place) does not depend on the type of its numbers, so the same nodes are run on the same stored weights
with every half-precision value widened, and must then agree with PyTorch as closely as a float32 graph does.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
STORED = ".stored"
# Attributes that name a type.
TYPE_ATTRIBUTES = ("to", "output_dtype", "dtype")


def widen(path: Path) -> bytes:
    """A graph with all its half-precision values in float32; it casts the same external data when it runs.

    Args:
        path: A graph whose weights are external data.
    """
    model = onnx.load(path, load_external_data=False)
    graph = model.graph
    # What is known of values in between is of the old types; ONNX Runtime finds the new ones itself.
    del graph.value_info[:]
    for value in (*graph.input, *graph.output):
        if value.type.tensor_type.elem_type in HALVES:
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for node in graph.node:
        for attribute in node.attribute:
            _widen_attribute(attribute)
    users = {name: place for place, node in reversed(list(enumerate(graph.node))) for name in node.input}
    stored = [tensor for tensor in graph.initializer if tensor.data_type in HALVES and tensor.name in users]
    # Each cast stands right before its first user, which keeps few of them alive at a time.
    for tensor in sorted(stored, key=lambda tensor: -users[tensor.name]):
        cast = helper.make_node("Cast", [tensor.name + STORED], [tensor.name], to=TensorProto.FLOAT)
        graph.node.insert(users[tensor.name], cast)
        tensor.name += STORED
    return bytes(model.SerializeToString())


def _widen_attribute(attribute: AttributeProto) -> None:
    if attribute.name in TYPE_ATTRIBUTES and attribute.i in HALVES:
        attribute.i = TensorProto.FLOAT
    if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in HALVES:
        attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype("float32")))
