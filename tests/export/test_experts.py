"""Mixtures with quantised experts are stored, decoded, exported and run."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from tiny_models import tiny_model

from spectr_export.checks.parity import check_onnxruntime, check_parity, compare
from spectr_export.checks.reference import Reference
from spectr_export.checks.tolerance import within_spread
from spectr_export.graph.export import export_graph
from spectr_export.original.model import load_original, load_stored, measure_spec
from spectr_export.storing.experts import find_stacks
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.save import save_model
from spectr_export.weights import read_header
from spectr_runtime import ModelSpec
from spectr_runtime.bundle import stacks
from spectr_runtime.bundle.weights import read_weights
from spectr_runtime.engines.torch import TorchEngine

SIZES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {"moe_intermediate_size": 64},
    "mixtral": {"intermediate_size": 64},
    "gpt_oss": {"intermediate_size": 64},
}
# The most weights of a product: enough for all experts of a layer, or only for some.
LIMITS = (10**6, 5_000)
Store = Callable[..., tuple[Path, Any, ModelSpec]]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a function that stores a mixture and returns its folder, the original model and its sizes."""

    def make(family: str, quantisation: str, limit: int = LIMITS[0]) -> tuple[Path, Any, ModelSpec]:
        monkeypatch.setattr(stacks, "PRODUCT", limit)
        model = tiny_model(family, **SIZES[family])
        spec = dataclasses.replace(measure_spec(model), quantisation=quantisation)
        model.save_pretrained(tmp_path / "source")
        source = load_stored(tmp_path / "source")
        plan = StoragePlan.of(source.model, Precision("float32", quantisation))
        save_model(source.model, tmp_path / "made", plan, source.weights)
        return tmp_path / "made", model, spec

    return make


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("quantisation", ["int8", "int4"])
@pytest.mark.parametrize("family", SIZES)
def test_every_expert_is_near_to_what_it_was(store: Store, family: str, quantisation: str, limit: int) -> None:
    folder, model, _ = store(family, quantisation, limit)
    read = read_weights(folder / "model.safetensors")
    found = find_stacks(model)
    assert len(found) == 4
    header = read_header(folder / "model.safetensors")
    for name, stack in found.items():
        assert len(header[f"{name}.codes"].shape) == 4
        assert (header[f"{name}.codes"].shape[0] > 1) == (limit == LIMITS[1])
        original = model.get_parameter(name).detach()
        assert read[name].shape == original.shape == stack.shape
        # The error is at most half a step of the largest scale, so no expert and no row took another one's codes.
        step = float(original.abs().max()) / (127 if quantisation == "int8" else 7)
        error = (read[name] - original).abs().max()
        assert 0 < error <= step * (0.51 if quantisation == "int8" else 1.6)
    assert StoragePlan.of(model, Precision("float32", quantisation)).layouts.keys() == header.keys()


@pytest.mark.parametrize("family", SIZES)
def test_each_expert_is_read_alone_as_all_are(store: Store, family: str) -> None:
    folder, model, _ = store(family, "int4", LIMITS[1])
    read = read_weights(folder / "model.safetensors")
    expected = load_stored(folder.parent / "source").model
    text = torch.arange(9)[None]
    with torch.inference_mode():
        model.load_state_dict(read, strict=False)
        model.set_experts_implementation("eager")
        assert torch.equal(load_original(folder)(text).logits, model(text).logits)
        assert not torch.equal(expected(text).logits, model(text).logits)


@pytest.mark.parametrize(
    ("family", "quantisation", "limit"),
    [
        ("qwen3_moe", "int4", 5_000),
        ("gpt_oss", "int4", 10**6),
        ("gpt_oss", "int8", 5_000),
        ("mixtral", "int8", 10**6),
    ],
)
def test_the_graph_reads_the_products_of_the_file(store: Store, family: str, quantisation: str, limit: int) -> None:
    folder, _, spec = store(family, quantisation, limit)
    export_graph(folder, spec)
    original = load_original(folder)
    check_onnxruntime(Reference(load_original(folder, rounding=False)), folder, spec, 128, name=family)
    engine = TorchEngine(folder, spec, rows=3, capacity=128)
    if quantisation == "int8":  # whose rounding of inputs turns last bits into codes
        compare(Reference(original), engine, within_spread, name=family)
    else:
        check_parity(original, engine, name=family)
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    read = sum(int(entry.value) for one in graph.initializer for entry in one.external_data if entry.key == "length")
    # Keys and values have the input of the queries, by whose scales it is divided.
    unread = tuple(f"self_attn.{name}_proj.weight.input_scale" for name in "kv" if quantisation == "int8")
    header = read_header(folder / "model.safetensors")
    assert read == sum(entry.length for name, entry in header.items() if not name.endswith(unread))
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "model.onnx", options)
    fused = Counter(node.op_type for node in onnx.load(folder / "fused.onnx", load_external_data=False).graph.node)
    decoded = Counter(node.op_type for node in graph.node)["DequantizeLinear"]
    assert (fused["MatMulNBits"], fused["DequantizeLinear"]) == (decoded, 0)
