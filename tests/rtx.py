"""Engines that TensorRT-RTX builds for real, which needs no GPU."""

from __future__ import annotations

from pathlib import Path

import onnx
import tensorrt_rtx

from spectr_export.compiled.profiles import make_profiles, static_capacity
from spectr_export.compiled.progress import BuildProgress
from spectr_export.compiled.tensorrt import BuildLimits, BuiltEngine, build_engine
from spectr_runtime.bundle import Limits
from spectr_runtime.bundle.compiled import EngineKey

VERSION = str(tensorrt_rtx.__version__)
FLEET = ("8.0", "8.9", "12.0")
FP8_FLEET = FLEET[1:]
LIMITS, TREE = Limits(128, 32), 8
PROFILES = make_profiles(LIMITS, rows=4, tree_tokens=TREE)
# Matrices of two blocks of int4, and heads wide enough for kernels that fuse attention.
WIDE = {"hidden_size": 64, "intermediate_size": 96, "ffn_dim": 64, "word_embed_proj_dim": 64}
HALVES = {"float16": "Half", "bfloat16": "BFloat16"}  # TensorRT's names
CODES = {"int8": "Int8", "int4": "Int4", "int4-asymmetric": "Int4", "fp8": "FP8"}

# Operators younger than opset 21 that TensorRT 10.15 reads; it learnt all but the first.
YOUNG = {"Attention", "RMSNormalization", "RotaryEmbedding", "TensorScatter"}
# The opset that each operator came with.
BORN: dict[str, int] = {}
for schema in onnx.defs.get_all_schemas_with_history():
    BORN[schema.name] = min(schema.since_version, BORN.get(schema.name, schema.since_version))


def quiet(line: str) -> None:
    """Takes a line of progress."""


def build(
    folder: Path, *chosen: str, limits: BuildLimits | None = None, progress: BuildProgress | None = None
) -> BuiltEngine:
    """One engine for the chosen compute capabilities, by default for those of ``FLEET``."""
    key = EngineKey("tensorrt-rtx", VERSION, chosen or FLEET)
    progress = progress or BuildProgress("model", quiet)
    return build_engine(folder, key, PROFILES, static_capacity(LIMITS, TREE), limits or BuildLimits(), progress)


def check(built: BuiltEngine, folder: Path, dtype: str, quantisation: str) -> None:
    """Check that an engine gives logits, computes in its type and reads every quantised matrix as it is stored.

    In fp8 that goes for the matrices' inputs too.
    The graph must have no operator either that TensorRT 10.15 does not read, the oldest release served.
    """
    nodes = onnx.load(folder / "model.onnx", load_external_data=False).graph.node
    assert {node.op_type for node in nodes if BORN[node.op_type] > 21} <= YOUNG
    quantised = sum(node.op_type == "DequantizeLinear" for node in nodes)
    assert (quantised > 0) == (quantisation != "none")
    if quantised:
        found = built.layers.count(f"Datatype: {CODES[quantisation]},")
        assert found >= quantised * len(PROFILES), f"{found} of {quantised} in {len(PROFILES)} profiles"
    assert built.layers.count(f"Datatype: {HALVES[dtype]},") > 50
    assert "logits" in built.layers
    assert len(built.plan) > 1_000_000
