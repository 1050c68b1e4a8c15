"""Parts of a stack of weights in a graph, each read from its own place in the file.

The products of a mixture take several experts of a stack each. As weights of their own, no more than one part has to
be in memory, turned or widened.
"""

from __future__ import annotations

from onnxscript import ir
from onnxscript.ir import passes

from spectr_export.graph.initializers import as_initializer, read_integer


def cut_stacks(graph: ir.Model, weights: set[str]) -> None:
    """Replace every slice along the first dimension of a weight by a weight.

    Args:
        graph: The graph, its weights external data and its constants folded; changed in place.
        weights: Their names.
    """
    for node in list(graph.graph):
        stack = node.inputs[0] if node.op_type == "Slice" else None
        if stack is None or stack.name not in weights:
            continue
        start, end, axis = (read_integer(value) for value in node.inputs[1:4])
        assert axis == 0, f"{stack.name} is cut along dimension {axis}"
        part = _part(stack, start, end)
        graph.graph.register_initializer(part)
        node.outputs[0].replace_all_uses_with(part)
    passes.common.RemoveUnusedNodesPass()(graph)


def _part(stack: ir.Value, start: int, end: int) -> ir.Value:
    whole = stack.const_value
    assert isinstance(whole, ir.ExternalTensor)
    entries, *sizes = whole.shape.numpy()
    assert whole.offset is not None
    assert whole.length is not None
    entry, name = whole.length // entries, f"{stack.name}.{start}"
    end = min(end, entries)
    shape = ir.Shape([end - start, *sizes])
    data = ir.ExternalTensor(
        whole.location, whole.offset + start * entry, (end - start) * entry, whole.dtype,
        shape=shape, name=name, base_dir=whole.base_dir,
    )  # fmt: skip
    return as_initializer(data)
