"""Initializers of a graph: weights whose data are in ``model.safetensors``, and constants that hold an integer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from onnxscript import ir

from spectr_export.weights import TensorEntry
from spectr_runtime.bundle.layout import WEIGHTS


def external_tensor(
    name: str, dtype: ir.DataType, entry: TensorEntry, folder: Path, *, shape: Sequence[int] | None = None
) -> ir.ExternalTensor:
    """Return a tensor whose data are the bytes of an entry of ``model.safetensors``.

    Args:
        name: The tensor's name in the graph.
        dtype: Its type in the graph; ONNX packs two int4 into a byte, for which safetensors has no type.
        entry: The range of bytes in the file.
        folder: The folder of the file.
        shape: The tensor's shape in the graph, if the entry has another one.
    """
    sizes = ir.Shape(entry.shape if shape is None else shape)
    return ir.ExternalTensor(WEIGHTS, entry.offset, entry.length, dtype, shape=sizes, name=name, base_dir=folder)


def as_initializer(tensor: ir.ExternalTensor) -> ir.Value:
    """Return a value that can be registered as an initializer of a graph."""
    # The graph may refine the value's shape, while the tensor's own is frozen.
    shape = ir.Shape(tensor.shape)
    return ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)


def read_integer(value: ir.Value | None) -> int:
    """Return the integer that a constant holds."""
    constant = ir.convenience.get_const_tensor(value) if value is not None else None
    assert constant is not None, "the number is known only when the graph is called"
    return int(constant.numpy().item())
