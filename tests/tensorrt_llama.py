"""A small model as an engine for the double of TensorRT: its record, its folder, and calls of it."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_models import save_checkpoint, tiny_model

from spectr_runtime import Call, ModelSpec
from spectr_runtime.bundle.compiled import CompiledEngine, Dimension, EngineKey, Profile

SPEC = ModelSpec("llama", 2, 2, 8, 257, 128)
ROWS, CAPACITY = 4, 64
KEY = EngineKey("tensorrt-rtx", "1.7.1.116", ("8.9",))
PROFILES = (
    Profile(
        "decode", {"B": Dimension(1, 4, 4), "T": Dimension(1, 4, 4), "L": Dimension(1, 64, 64), "M": Dimension(1, 4, 4)}
    ),
    Profile(
        "prefill",
        {"B": Dimension(1, 4, 4), "T": Dimension(1, 32, 32), "L": Dimension(1, 64, 64), "M": Dimension(1, 1, 1)},
    ),
)
COMPILED = CompiledEngine(KEY, "", "", CAPACITY, PROFILES, "fused", weight_streaming=False)


def random_call(seed: int, rows: int, tokens: int, wanted: int, first_row: int = 0) -> Call:
    generator = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> torch.Tensor:
        return torch.randint(high, shape, generator=generator)

    return Call(
        integers(257, rows, tokens),
        integers(100, rows, tokens),
        torch.rand((rows, 1, tokens, 40), generator=generator) < 0.6,
        integers(40 - tokens, rows),
        integers(tokens, rows, wanted),
        first_row,
    )


def save_llama(folder: Path) -> Path:
    """Save the model and the file of its engine; the engine's path."""
    path = save_checkpoint(folder, tiny_model("llama")) / "llama.engine"
    path.write_bytes(b"plan")
    return path
