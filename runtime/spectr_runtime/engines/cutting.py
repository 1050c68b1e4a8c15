"""Graphs that read the whole cache instead of a copy that is cut to length.

A stored graph has the cache's capacity as a dimension of its own, which compiled engines need, and cuts what a call
reads to the attention length: two copies in every layer. An engine whose cache is as long as the attention needs none.
"""

from __future__ import annotations

import onnx


def without_cuts(data: bytes) -> bytes:
    """Return a graph in ONNX's format whose attention reads all slots of the cache, as many as the mask has.

    Args:
        data: The graph; its attention reads the first slots of the keys and values that TensorScatter wrote.
    """
    model = onnx.load_from_string(data)
    graph = model.graph
    written = {name for node in graph.node if node.op_type == "TensorScatter" for name in node.output}
    cuts = [node for node in graph.node if node.op_type == "Slice" and node.input[0] in written]
    whole = {node.output[0]: node.input[0] for node in cuts}
    kept = [node for node in graph.node if not whole.keys() & set(node.output)]
    for node in kept:
        for place, name in enumerate(node.input):
            node.input[place] = whole.get(name, name)
    read = {name for node in kept for name in node.input}
    bounds = {name for node in cuts for name in node.input} - read
    initializers = [tensor for tensor in graph.initializer if tensor.name not in bounds]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(kept)
    graph.initializer.extend(initializers)
    return bytes(model.SerializeToString())
