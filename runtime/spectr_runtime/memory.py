"""Telling a lack of memory from other failures; the libraries below raise it in many shapes."""

from __future__ import annotations

SIGNS = ("out of memory", "can't allocate memory", "failed to allocate memory", "bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of PyTorch, ONNX Runtime, TensorRT or of an engine around them says that memory ran out."""
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in SIGNS)
