"""The attention of graphs for ONNX Runtime: over the whole cache, and on a CPU never of one query alone.

A stored graph has the cache's capacity as a dimension of its own, which compiled engines need, and cuts what a call
reads to the attention length: two copies in every layer. An engine whose cache is as long as the attention needs none.

On a CPU, ONNX Runtime multiplies a single query in another way than several, with other last bits, which rounding to 8
bits makes larger. Then plain decoding, which feeds one token a row, and the verification of drafts could write
different texts. So the query heads that share keys become queries of one head, which reads the keys once besides. Where
no heads share keys, a query is added that nobody reads.
"""

# B rows, T tokens fed, L attention length, H heads (Hq of queries, Hk of keys), G query heads of a key head, D head
# size.
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
from onnx import GraphProto, NodeProto, TensorProto, helper

from spectr_runtime.engines.integer import constant, drop_unread

Shapes = Mapping[str, Sequence[int]]


def with_cpu_attention(data: bytes) -> bytes:
    """Return a graph in ONNX's format whose attention reads all slots of the cache, as many as the mask has.

    A row's result is the same to the bit for every number of tokens, but for heads with linear biases of their own or
    attention sinks, which no operator for attention computes; their graphs only lose the cuts.

    Args:
        data: The graph; its attention reads the first slots of the keys and values that TensorScatter wrote.
    """
    model = onnx.load_from_string(data)
    graph = model.graph
    _remove_cuts(graph)
    several = _Several(graph)
    nodes = [made for node in graph.node for made in several.queries(node)]
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread(graph)
    return bytes(model.SerializeToString())


def without_cuts(data: bytes) -> bytes:
    """Return a graph in ONNX's format whose attention reads all slots of the cache, as many as the mask has.

    Args:
        data: The graph; its attention reads the first slots of the keys and values that TensorScatter wrote.
    """
    model = onnx.load_from_string(data)
    _remove_cuts(model.graph)
    drop_unread(model.graph)
    return bytes(model.SerializeToString())


def _remove_cuts(graph: GraphProto) -> None:
    written = {name for node in graph.node if node.op_type == "TensorScatter" for name in node.output}
    cuts = {
        node.output[0]: node.input[0] for node in graph.node if node.op_type == "Slice" and node.input[0] in written
    }
    kept = [node for node in graph.node if not cuts.keys() & set(node.output)]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = cuts.get(name, name)
    del graph.node[:]
    graph.node.extend(kept)


class _Several:
    """Makes attention of one query attention of several.

    Args:
        graph: The graph, to which constants are added.
    """

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        values = [*graph.value_info, *graph.input, *graph.output]
        self._shapes: Shapes = {
            value.name: [size.dim_value for size in value.type.tensor_type.shape.dim] for value in values
        }
        self._masks: set[str] = set()

    def queries(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield the nodes that take the place of one; of any but attention, the node itself."""
        shapes = [self._shapes.get(name, ()) for name in node.input[:4]]
        if node.op_type != "Attention" or [len(shape) for shape in shapes] != [4] * 4 or shapes[3][1] != 1:
            yield node
            return
        group = shapes[0][1] // shapes[1][1]
        yield from self._joined(node, group) if group > 1 else self._padded(node)

    def _joined(self, node: NodeProto, group: int) -> Iterator[NodeProto]:
        """Yield attention with queries [B, Hk, G * T, D], which lie in memory like [B, Hq, T, D]."""
        query, key, value, mask = node.input[:4]
        (heads, size), (shared, width) = ((self._shapes[name][1], self._shapes[name][3]) for name in (query, value))
        masks = f"{mask}.of.{group}"
        if masks not in self._masks:
            self._masks.add(masks)
            yield helper.make_node("Concat", [mask] * group, [masks], axis=2)
        yield self._reshaped(query, f"{query}.joined", shared, size)
        result = node.output[0]
        yield _instead(node, [f"{query}.joined", key, value, masks], f"{result}.joined")
        yield self._reshaped(f"{result}.joined", result, heads, width)

    def _padded(self, node: NodeProto) -> Iterator[NodeProto]:
        """Yield attention with one more query, a copy of the last one."""
        query, key, value, mask = node.input[:4]
        last, end = self._integers(-1), self._integers(2**62)
        axis = self._integers(2)
        masks = f"{mask}.and.last"
        if masks not in self._masks:
            self._masks.add(masks)
            yield helper.make_node("Slice", [mask, last, end, axis], [f"{mask}.last"])
            yield helper.make_node("Concat", [mask, f"{mask}.last"], [masks], axis=2)
        yield helper.make_node("Slice", [query, last, end, axis], [f"{query}.last"])
        yield helper.make_node("Concat", [query, f"{query}.last"], [f"{query}.and.last"], axis=2)
        result = node.output[0]
        yield _instead(node, [f"{query}.and.last", key, value, masks], f"{result}.and.last")
        yield helper.make_node("Slice", [f"{result}.and.last", self._integers(0), last, axis], [result])

    def _reshaped(self, name: str, result: str, heads: int, size: int) -> NodeProto:
        return helper.make_node("Reshape", [name, self._integers(0, heads, -1, size)], [result])

    def _integers(self, *numbers: int) -> str:
        """Return the name of an initializer that holds these numbers."""
        name = ".".join(["attention", *map(str, numbers)])
        return constant(self._graph, name, TensorProto.INT64, [len(numbers)], numbers)


def _instead(node: NodeProto, inputs: Sequence[str], output: str) -> NodeProto:
    """Return a copy of a node with other inputs and another output."""
    made = NodeProto()
    made.CopyFrom(node)
    made.input[: len(inputs)] = inputs
    made.output[0] = output
    return made
