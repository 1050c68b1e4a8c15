"""The names of the backends that can run a bundle's models.

The module imports nothing heavy, so that command lines can list the names at once.
"""

from __future__ import annotations

from typing import Literal, get_args

# Engines are compiled ahead of time for one TensorRT product, and only that product runs them.
Flavour = Literal["tensorrt", "tensorrt-rtx"]
Backend = Literal["onnxruntime", "torch", Flavour]

FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
RECORDED: tuple[Backend, ...] = ("torch", "tensorrt")  # whose rounds are recorded on a GPU, and replayed
BACKENDS: tuple[Backend, ...] = get_args(Backend)
