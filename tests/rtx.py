"""Engines that TensorRT-RTX builds for real, which needs no GPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import tensorrt_rtx

from spectr_export.profiles import make_profiles, static_capacity
from spectr_export.progress import Progress
from spectr_export.tensorrt import BuildLimits, BuiltEngine, build_engine
from spectr_runtime.bundle import Limits
from spectr_runtime.compiled import EngineKey

VERSION = str(tensorrt_rtx.__version__)
FLEET = ("8.0", "8.9", "12.0")
LIMITS, TREE = Limits(128, 32), 8
PROFILES = make_profiles(LIMITS, rows=4, tree_tokens=TREE)
# Matrices of two blocks of int4, and heads wide enough for kernels that fuse attention.
WIDE = {"hidden_size": 64, "intermediate_size": 96, "ffn_dim": 64, "word_embed_proj_dim": 64}
HALVES = {"float16": "Half", "bfloat16": "BFloat16"}  # TensorRT's names


def quiet(line: str) -> None:
    """Takes a line of progress."""


def build(
    folder: Path, *chosen: str, limits: BuildLimits | None = None, progress: Progress | None = None
) -> BuiltEngine:
    """One engine for the chosen compute capabilities, by default for those of ``FLEET``."""
    key = EngineKey("tensorrt-rtx", VERSION, chosen or FLEET)
    progress = progress or Progress("model", quiet)
    return build_engine(folder, key, PROFILES, static_capacity(LIMITS, TREE), limits or BuildLimits(), progress)


def check(built: BuiltEngine, folder: Path, dtype: str, quantisation: str) -> None:
    """Check that an engine gives logits, computes in its type and reads every quantised matrix as it is stored."""
    nodes = onnx.load(folder / "model.onnx", load_external_data=False).graph.node
    matrices = sum(node.op_type == "DequantizeLinear" for node in nodes)
    assert (matrices > 0) == (quantisation != "none")
    stored = built.layers.count(f"Datatype: {quantisation.capitalize()},")
    assert stored >= matrices * len(PROFILES), f"{stored} of {matrices} matrices in {len(PROFILES)} profiles"
    assert built.layers.count(f"Datatype: {HALVES[dtype]},") > 50
    assert "logits" in built.layers
    assert len(built.plan) > 1_000_000
