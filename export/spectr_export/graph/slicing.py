"""Turns slices of a stack of weights into weights of their own, each with its own range of bytes in the file.

Each product of a mixture takes several experts of a stack. As the experts of a product are a weight of their own, a
runtime that transposes or widens weights has to hold only those experts in memory, and not the whole stack.
"""

from __future__ import annotations

from onnxscript import ir
from onnxscript.ir import passes

from spectr_export.graph.initializers import as_initializer, read_integer


def cut_stacks(graph: ir.Model, weights: set[str]) -> None:
    """Replace every slice along the first dimension of a weight by a weight.

    Args:
        graph: The graph, with external weights and folded constants; changed in place.
        weights: Names of the weights.
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
