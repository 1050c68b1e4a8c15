from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from click.testing import CliRunner
from tiny_models import VOCABULARY, save_checkpoint, tiny_model

from spectr_export import member as member_module
from spectr_export.build import build
from spectr_export.checks import quality, tolerance
from spectr_export.checks.parity import check_half, check_onnxruntime, check_parity, compare
from spectr_export.checks.reference import Reference
from spectr_export.cli import main
from spectr_export.graph.export import export_graph
from spectr_export.original.model import load_original, measure_spec
from spectr_export.preparation import BuildOptions
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.quantiser import BLOCK, quantise
from spectr_export.storing.save import save_model
from spectr_export.text import WINDOW
from spectr_export.weights import read_header
from spectr_runtime import Bundle, BundleError, ModelSpec, UsageError
from spectr_runtime.bundle.weights import dequantise, read_weights
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine
from spectr_runtime.engines.torch import TorchEngine

SIZES = {"llama": {"intermediate_size": 64}, "opt": {"ffn_dim": 64}, "gpt2": {"hidden_size": 64}}
# Layers whose input is that of another layer, by whose scales the graph divides it.
SHARED: dict[str, tuple[str, ...]] = {
    "llama": ("self_attn.k_proj", "self_attn.v_proj", "mlp.up_proj"),
    "opt": ("self_attn.k_proj", "self_attn.v_proj"),
    "gpt2": (),
}
Store = Callable[[str, str, str], tuple[Path, Any, ModelSpec]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a function that stores a family in a precision, and returns its folder, the original and its sizes."""
    made: dict[tuple[str, str, str], tuple[Path, Any, ModelSpec]] = {}

    def store(family: str, dtype: str, quantisation: str) -> tuple[Path, Any, ModelSpec]:
        key = (family, dtype, quantisation)
        if key not in made:
            folder, model = tmp_path_factory.mktemp(family), tiny_model(family, **SIZES[family])
            spec = dataclasses.replace(measure_spec(model), dtype=dtype, quantisation=quantisation)
            save_model(model, folder, StoragePlan.of(model, Precision(dtype, quantisation)))
            export_graph(folder, spec)
            made[key] = folder, model, spec
        return made[key]

    return store


PRECISIONS = [
    ("llama", "float16", "none"),
    ("llama", "bfloat16", "none"),
    ("llama", "float32", "int8"),
    ("llama", "float32", "int4"),
    ("llama", "bfloat16", "int4"),
    ("opt", "float32", "int4"),
    ("opt", "float16", "int8"),
    ("gpt2", "float32", "int8"),
    ("gpt2", "float32", "int4"),
]


@pytest.mark.parametrize(("family", "dtype", "quantisation"), PRECISIONS)
def test_the_graph_on_the_stored_weights_agrees_with_transformers(
    stored: Store, family: str, dtype: str, quantisation: str
) -> None:
    folder, _, spec = stored(family, dtype, quantisation)
    found = check_onnxruntime(Reference(load_original(folder, rounding=False)), folder, spec, 128, name=family)
    # OPT scales its queries by a constant, which half precision rounds.
    assert 0 < max(found.values()) < (1e-4 if family == "llama" else 5e-4)


def test_a_half_precision_graph_on_other_weights_is_found(stored: Store, tmp_path: Path) -> None:
    folder, _, spec = stored("llama", "bfloat16", "none")
    model = tiny_model("llama", seed=1, **SIZES["llama"])
    save_model(model, tmp_path, StoragePlan.of(model, Precision("bfloat16")))
    with pytest.raises(BundleError, match=r"allowed are 0\.\d+ \+ 0\.01 of the logit"):
        check_onnxruntime(Reference(load_original(tmp_path)), folder, spec, 128, name="other")


@pytest.mark.parametrize(("family", "dtype", "quantisation"), PRECISIONS)
def test_the_graph_is_standard_and_stores_each_weight_once(
    stored: Store, family: str, dtype: str, quantisation: str
) -> None:
    folder, _, spec = stored(family, dtype, quantisation)
    onnx.checker.check_model(folder / "model.onnx")
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    operators = Counter(node.op_type for node in graph.node)
    matrices = {"llama": 7, "opt": 6, "gpt2": 4}[family] * spec.layers
    assert {node.domain for node in graph.node} == {""}
    matrices += quantisation == "int8" and family != "gpt2"  # the layer that gives the logits
    assert operators["DequantizeLinear"] == (0 if quantisation == "none" else matrices)
    kinds = {onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in graph.output[1:]}
    assert [str(kind) for kind in kinds] == [dtype]
    read = {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "offset"}
    header = read_header(folder / "model.safetensors")
    unread = {name.partition("layers.")[2] for name, entry in header.items() if str(entry.offset) not in read}
    shared = SHARED[family] if quantisation == "int8" else ()
    assert unread == {f"{layer}.{name}.weight.input_scale" for layer in range(spec.layers) for name in shared}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_prefers_the_same_tokens(stored: Store, dtype: str) -> None:
    folder, _, spec = stored("llama", dtype, "none")
    assert 0 <= check_half(Reference(load_original(folder)), folder, spec, 128, name="half")["half"] <= tolerance.HALF


def test_half_precision_that_prefers_other_tokens_is_found(stored: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, _, spec = stored("llama", "bfloat16", "none")
    forward = TorchEngine.forward
    monkeypatch.setattr(TorchEngine, "forward", lambda engine, call: forward(engine, call).roll(1, -1))
    with pytest.raises(BundleError, match=r"allowed are 0\.25 between the tokens preferred"):
        check_half(Reference(load_original(folder)), folder, spec, 128, name="half")


def test_both_engines_read_the_same_quantised_weights(stored: Store) -> None:
    folder, _, spec = stored("llama", "float32", "int4")
    original = load_original(folder)
    check_parity(original, TorchEngine(folder, spec, rows=3, capacity=128), name="torch")
    check_parity(original, OnnxRuntimeEngine(folder, spec, rows=3, capacity=128, lean=True), name="onnxruntime")


@pytest.mark.parametrize("quantisation", ["int8", "int4"])
def test_onnxruntime_fuses_every_quantised_product(stored: Store, tmp_path: Path, quantisation: str) -> None:
    folder, _, _ = stored("llama", "float32", quantisation)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "fused.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(folder / "model.onnx", options)
    operators = Counter(
        node.op_type for node in onnx.load(tmp_path / "fused.onnx", load_external_data=False).graph.node
    )
    assert (operators["MatMulNBits"], operators["DequantizeLinear"]) == (15 if quantisation == "int8" else 14, 0)


def test_fused_products_round_what_they_multiply_a_little(stored: Store) -> None:
    # The fused kernels round activations to int8 as well, which accounts for most of their speed.
    folder, _, spec = stored("llama", "float32", "int4")
    engine = OnnxRuntimeEngine(folder, spec, rows=3, capacity=128)
    found = compare(Reference(load_original(folder)), engine, within_a_tenth_of_the_spread, name="fused")
    assert max(found.values()) > 1e-4


def within_a_tenth_of_the_spread(logits_V: torch.Tensor, expected_V: torch.Tensor) -> tuple[float, bool, str]:
    difference = float((logits_V - expected_V).pow(2).mean().sqrt())
    return difference, difference < 0.1 * float(expected_V.std()), "a tenth"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_int8_is_the_nearest_of_255_numbers(dtype: torch.dtype) -> None:
    matrix_NK = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    codes, scales = quantise(matrix_NK, "int8", dtype).values()
    assert (codes.dtype, tuple(codes.shape), scales.dtype, tuple(scales.shape)) == (torch.int8, (64, 6), dtype, (6,))
    error_NK = (dequantise(codes, scales.float()) - matrix_NK).abs()
    assert bool((error_NK <= 0.51 * scales.float()[:, None]).all())
    assert int(codes.abs().max()) == 127


def test_int4_has_less_error_than_plain_rounding_and_its_codes_fit() -> None:
    matrix_NK = torch.randn(8, 4 * BLOCK, generator=torch.Generator().manual_seed(0))
    codes, scales = quantise(matrix_NK, "int4", torch.float32).values()
    assert (codes.dtype, tuple(codes.shape), tuple(scales.shape)) == (torch.uint8, (4 * BLOCK, 4), (4, 8))
    blocks = matrix_NK.view(8, 4, BLOCK)
    plain = blocks.abs().amax(-1, keepdim=True) / 7
    nearest = ((blocks / plain).round() * plain).view(8, -1)
    error = (dequantise(codes, scales) - matrix_NK).pow(2).sum()
    assert error < (nearest - matrix_NK).pow(2).sum()


@pytest.mark.parametrize("quantisation", ["int8", "int4", "fp8"])
def test_numbers_that_fit_the_codes_come_back_exactly(quantisation: str) -> None:
    largest = {"int8": 127, "int4": 7, "fp8": 14}[quantisation]
    codes_NK = torch.randint(-largest, largest + 1, (4, 2 * BLOCK), generator=torch.Generator().manual_seed(0))
    codes_NK[:, ::BLOCK] = largest
    codes_NK[3] = 0
    matrix_NK = codes_NK * torch.tensor([[0.5], [2.0], [1.0], [1.0]])
    assert torch.equal(dequantise(*quantise(matrix_NK, quantisation, torch.float32).values()), matrix_NK)


def test_embeddings_logits_and_vectors_are_not_quantised(stored: Store) -> None:
    folder, model, _ = stored("llama", "float32", "int4")
    read, own = read_weights(folder / "model.safetensors"), model.state_dict()
    assert read.keys() == own.keys()
    exact = {name for name, tensor in own.items() if torch.equal(read[name], tensor)}
    assert {name for name in own if name not in exact} == {name for name in own if "proj" in name}
    for name in own.keys() - exact:
        assert float((read[name] - own[name]).pow(2).mean().sqrt() / own[name].std()) < 0.12


def test_a_model_whose_layers_fill_no_blocks_is_refused(tmp_path: Path) -> None:
    model = tiny_model("llama", hidden_size=40, intermediate_size=40)
    with pytest.raises(BundleError, match="No layer of the llama model can be stored in int4, which needs a mul"):
        save_model(model, tmp_path, StoragePlan.of(model, Precision("float32", "int4")))


@pytest.mark.parametrize(("dtype", "quantisation"), [("float8", "none"), ("float32", "int3")])
def test_an_unknown_precision_is_refused(dtype: str, quantisation: str) -> None:
    with pytest.raises(UsageError, match="is not known; it must be"):
        Precision(dtype, quantisation)


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in half precision that predicts texts no better than chance."""
    return save_checkpoint(tmp_path_factory.mktemp("target"), tiny_model("llama", intermediate_size=64).half())


def test_a_quantised_copy_of_the_target_is_its_draft(target: Path, tmp_path: Path) -> None:
    arguments = ["build", str(target), "--draft", "int8", "-o", str(tmp_path / "bundle")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    manifest = Bundle.open(tmp_path / "bundle").manifest
    draft, whole = manifest.models["draft"], manifest.models["target"]
    assert (draft.quantisation, whole.quantisation) == ("int8", "none")
    assert dataclasses.replace(draft, quantisation="none") == whole
    assert set(manifest.quality["draft"]) == {"original", "lost", "rounded", "acceptance"}
    assert manifest.quality["target"] == {}
    assert abs(manifest.quality["draft"]["lost"]) < quality.LIMITS["int8"]
    assert "draft: llama, 0.0 M parameters, 2 layers, int8 weights and float32" in result.stderr
    assert json.loads((tmp_path / "bundle" / "spectr.json").read_text())["models"]["draft"]["quantisation"] == "int8"


def test_a_bundle_in_half_precision_says_what_it_costs(target: Path, tmp_path: Path) -> None:
    arguments = ["build", str(target), "--draft", str(target), "-o", str(tmp_path / "bundle"), "--dtype", "bfloat16"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.stderr
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.models["target"].dtype == "bfloat16"
    assert set(manifest.quality["target"]) == {"original", "lost", "half"}
    result = CliRunner().invoke(main, ["check", str(tmp_path / "bundle")])
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'bundle'}: sound\n")
    assert "in bfloat16, preferred tokens within" in result.stderr
    page = CliRunner().invoke(main, ["inspect", str(tmp_path / "bundle")]).stdout.splitlines()
    assert page[1].startswith("target      llama, bfloat16, 2 layers, ")
    cost = (
        r" {12}[+-]0\.\d{4} nats per token to the checkpoint's \d\.\d{3}, preferred tokens within \S+ of the best logit"
    )
    assert re.fullmatch(cost, page[3])


def test_a_target_is_not_its_own_draft(target: Path, tmp_path: Path) -> None:
    arguments = ["build", str(target), "--draft", "int4", "--quantise", "int4", "-o", str(tmp_path / "bundle")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 2
    assert result.stderr == (
        "Error: A draft in int4 of a target in int4 is the target itself.\n"
        "Leave --draft out, leave --quantise out, or name a smaller model as draft.\n"
    )


@pytest.fixture
def without_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Builds make no graphs, which these tests do not look at."""
    monkeypatch.setattr(member_module, "export_graph", lambda *_arguments: None)
    monkeypatch.setattr(member_module, "check_onnxruntime", lambda *_arguments, **_options: {"prefill": 0.0})
    monkeypatch.setattr(member_module, "check_rounded", lambda *_arguments, **_options: {"rounded": 0.0})


@pytest.mark.usefixtures("without_graphs")
@pytest.mark.parametrize("quantisation", ["int4", "fp8"])
def test_a_target_that_loses_too_much_fails_the_build(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quantisation: str
) -> None:
    monkeypatch.setitem(quality.LIMITS, quantisation, -10.0)
    options = BuildOptions(str(target), str(target), precision=Precision("float32", quantisation))
    lost = (
        rf"The target in {quantisation} \w+ and float32 loses -?\d\.\d{{3}} nats per token on the text; allowed are -10"
    )
    with pytest.raises(BundleError, match=lost):
        build(options, tmp_path / "bundle", say=lambda line: None)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_graphs")
def test_a_draft_may_lose_anything_and_what_it_loses_is_told(
    target: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(quality.LIMITS, "int4", -10.0)
    said: list[str] = []
    build(BuildOptions(str(target), "int4"), tmp_path / "bundle", say=said.append)
    found = Bundle.open(tmp_path / "bundle").manifest.quality["draft"]
    assert set(found) == {"original", "lost", "acceptance"}
    cost = f"{found['lost']:+.4f} nats per token to the checkpoint's {found['original']:.3f}"
    accepted = f"{found['acceptance']:.1%} of its tokens accepted at temperature 1"
    assert f"draft: in int4 weights and float32, {cost}" in said
    assert said[-1] == f"draft: {accepted}"
    page = CliRunner().invoke(main, ["inspect", str(tmp_path / "bundle")]).stdout.splitlines()
    assert f"            {cost}, {accepted}" in page


def test_what_a_text_costs_is_the_mean_over_its_windows(target: Path) -> None:
    model = load_original(target)
    ids = torch.randint(VOCABULARY, (WINDOW + 3,), generator=torch.Generator().manual_seed(0)).tolist()[:100]
    with torch.inference_mode():
        laws_TV = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = -sum(float(laws_TV[position, token]) for position, token in enumerate(ids[1:])) / (len(ids) - 1)
    assert quality.nats_per_token(model, ids) == pytest.approx(expected, rel=1e-5)


def test_windows_of_one_length_cost_the_same_together_as_alone(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectr_export.text.WINDOW", 16)
    model = load_original(target)
    ids = torch.randint(VOCABULARY, (40,), generator=torch.Generator().manual_seed(0)).tolist()
    alone = [quality.nats_per_token(model, ids[start : start + 16]) for start in (0, 16, 32)]
    expected = (15 * alone[0] + 15 * alone[1] + 7 * alone[2]) / 37
    assert quality.nats_per_token(model, ids) == pytest.approx(expected, rel=1e-5)


def test_a_text_that_cannot_be_read_is_a_usage_error(target: Path, tmp_path: Path) -> None:
    (tmp_path / "short").write_text("")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xfa")
    for name, message in (("none", "cannot be read"), ("bytes", "cannot be read"), ("short", "fewer than two tokens")):
        with pytest.raises(UsageError, match=message):
            build(BuildOptions(str(target), "int8", text=tmp_path / name), tmp_path / "out", say=lambda line: None)


@pytest.mark.parametrize("quantisation", ["none", "int8"])
def test_numbers_beyond_float16_within_the_model_are_refused(tmp_path: Path, quantisation: str) -> None:
    model = tiny_model("llama", hidden_size=64, intermediate_size=64)
    model.model.layers[0].mlp.down_proj.weight.data.mul_(2e4)
    checkpoint = save_checkpoint(tmp_path / "checkpoint", model)
    options = BuildOptions(str(checkpoint), str(checkpoint), precision=Precision("float16", quantisation))
    with pytest.raises(BundleError, match=r"Numbers within the model leave the range of float16 \(draft in") as caught:
        build(options, tmp_path / "bundle", say=lambda line: None)
    assert caught.value.hint == "Use `--dtype bfloat16`, which has float32's range."
