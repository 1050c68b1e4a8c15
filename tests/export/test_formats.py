"""Quantised checkpoints: their numbers, the form in which a bundle holds them, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import rtx
import torch
from quantised_checkpoints import GROUP, SIZES, Rounded, awq, gptq, rounded, save_quantised
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model

from spectr_export.build import build
from spectr_export.checks.parity import check_onnxruntime
from spectr_export.checks.reference import Reference
from spectr_export.graph.export import export_graph
from spectr_export.original.formats.blocks import Blocks, Form, fitting_form
from spectr_export.original.formats.scheme import quantisation_settings
from spectr_export.original.model import load_original, load_stored, measure_spec
from spectr_export.preparation import BuildOptions
from spectr_export.storing.kept import describe_kept
from spectr_export.storing.packing import pack, packed_layouts
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.save import save_model
from spectr_runtime import Bundle, BundleError
from spectr_runtime.bundle.weights import CODES, MINIMA, SCALES, dequantise, read_weights
from spectr_runtime.engines.torch import TorchEngine

Quantise = Callable[[str, torch.Tensor], tuple[dict[str, torch.Tensor], torch.Tensor]]
DOWN = "model.layers.0.mlp.down_proj.weight"


def gptq_layers(bits: int = 4, *, symmetric: bool = True, scattered: bool = False, less: int = 1) -> Quantise:
    def quantise(path: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        matrix = rounded(weight, bits, symmetric=symmetric, scattered=scattered)
        return gptq(path, matrix, bits, less=less), matrix.weight

    return quantise


def awq_layers(path: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    matrix = rounded(weight, 4, symmetric=False)
    return awq(path, matrix), matrix.weight


def compressed_layers(settings: Mapping[str, Any]) -> Quantise:
    """Layers that compressed-tensors itself packs and unpacks."""
    from compressed_tensors.compressors import BaseCompressor
    from compressed_tensors.quantization import QuantizationScheme

    scheme = QuantizationScheme.model_validate(settings["config_groups"]["group_0"])
    compressor = BaseCompressor.get_value_from_registry(settings["format"])

    def quantise(path: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        state = {"weight": weight, **scales_of(weight, scheme.weights)}
        made = compressor.compress(state, scheme)
        return {f"{path}.{name}": tensor for name, tensor in made.items()}, compressor.decompress(made, scheme)[
            "weight"
        ]

    return quantise


def scales_of(weight: torch.Tensor, arguments: Any) -> dict[str, torch.Tensor]:
    """Scales and zero points that spread the codes over the numbers of a tensor, an output, a block or a square."""
    outputs, inputs = weight.shape
    top = 448.0 if arguments.type == "float" else 2 ** (arguments.num_bits - 1) - 1
    if arguments.strategy == "tensor":
        return {"weight_scale": (weight.abs().amax() / top).view(1)}
    if arguments.strategy == "block":
        side, across = arguments.block_structure
        squares = weight.abs().unflatten(1, (-1, across)).unflatten(0, (-1, side))
        return {"weight_scale": squares.amax((1, 3)) / top}
    groups = inputs // arguments.group_size if arguments.strategy == "group" else 1
    blocks = weight.view(outputs, groups, -1)
    if arguments.symmetric:
        return {"weight_scale": blocks.abs().amax(2) / top}
    scales = (blocks.amax(2) - blocks.amin(2)) / (2 * top + 1)
    zeros = (-blocks.amin(2) / scales - top - 1).round().clamp(-top - 1, top).to(torch.int8)
    return {"weight_scale": scales, "weight_zero_point": zeros}


def compressed(layout: str, **weights: Any) -> dict[str, Any]:
    """A ``quantization_config`` of compressed-tensors."""
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": True, **weights}}
    if layout in ("int-quantized", "float-quantized"):
        kind = {"num_bits": 8, "type": weights.get("type", "int"), "strategy": "token", "dynamic": True}
        group["input_activations"] = kind
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        "kv_cache_scheme": None,
    }


def finegrained_layers(path: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    scales = (weight.abs().unflatten(1, (-1, 32)).unflatten(0, (-1, 16)).amax((1, 3)) / 448).contiguous()
    wide = scales.repeat_interleave(16, 0).repeat_interleave(32, 1)
    codes = (weight / wide).to(torch.float8_e4m3fn)
    return {f"{path}.weight": codes, f"{path}.weight_scale_inv": scales}, codes.float() * wide


GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "sym": True, "desc_act": False}
AWQ = {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"}
INT4 = compressed("pack-quantized", strategy="group", group_size=GROUP)
INT4_ZEROS = compressed("pack-quantized", strategy="group", group_size=GROUP, symmetric=False)
INT4_OUTPUTS = compressed("pack-quantized", strategy="channel")
INT8 = compressed("int-quantized", num_bits=8, strategy="channel")
INT8_ZEROS = compressed("int-quantized", num_bits=8, strategy="channel", symmetric=False)
FP8 = compressed("float-quantized", num_bits=8, type="float", strategy="channel")
FP8_TENSOR = compressed("float-quantized", num_bits=8, type="float", strategy="tensor")
FP8_BLOCK = compressed("naive-quantized", num_bits=8, type="float", strategy="block", block_structure=[16, 32])
SQUARES = {"quant_method": "fp8", "weight_block_size": [16, 32], "activation_scheme": "dynamic"}
# The settings, what quantises a layer, and the form of the layer's matrix in the bundle.
FORMATS: dict[str, tuple[Mapping[str, Any], Callable[[], Quantise], Form | None]] = {
    "gptq": (GPTQ, gptq_layers, Form("int4", 32)),
    "gptq_zeros": (GPTQ | {"sym": False}, lambda: gptq_layers(symmetric=False), Form("int4", 32, True)),
    "gptq_v2": (GPTQ | {"checkpoint_format": "gptq_v2"}, lambda: gptq_layers(less=0), Form("int4", 32)),
    "gptq_2_bits": (GPTQ | {"bits": 2}, lambda: gptq_layers(2), Form("int4", 32)),
    "gptq_8_bits": (GPTQ | {"bits": 8}, lambda: gptq_layers(8), Form("int8", 32)),
    "gptq_scattered": (GPTQ | {"desc_act": True}, lambda: gptq_layers(scattered=True), None),
    "awq": (AWQ, lambda: awq_layers, Form("int4", 32, True)),
    "int4": (INT4, lambda: compressed_layers(INT4), Form("int4", 32)),
    "int4_zeros": (INT4_ZEROS, lambda: compressed_layers(INT4_ZEROS), Form("int4", 32, True)),
    "int4_outputs": (INT4_OUTPUTS, lambda: compressed_layers(INT4_OUTPUTS), Form("int4", 32)),
    "int8": (INT8, lambda: compressed_layers(INT8), Form("int8")),
    "int8_zeros": (INT8_ZEROS, lambda: compressed_layers(INT8_ZEROS), Form("int8", None, True)),
    "fp8": (FP8, lambda: compressed_layers(FP8), Form("fp8")),
    "fp8_tensor": (FP8_TENSOR, lambda: compressed_layers(FP8_TENSOR), Form("fp8")),
    "fp8_block": (FP8_BLOCK, lambda: compressed_layers(FP8_BLOCK), Form("fp8", 32)),
    "fp8_squares": (SQUARES, lambda: finegrained_layers, Form("fp8", 32)),
}


@dataclasses.dataclass(frozen=True)
class Stored:
    """A quantised checkpoint, the model that its codes stand for, and the folder in which a bundle has it."""

    source: Path
    model: Any
    plan: StoragePlan
    folder: Path


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Stored]:
    """Return a function that stores a checkpoint in a format."""
    made: dict[str, Stored] = {}

    def store(name: str) -> Stored:
        if name not in made:
            settings, layers, _ = FORMATS[name]
            source = tmp_path_factory.mktemp(name)
            model = save_quantised(source / "checkpoint", settings, layers())
            original = load_stored(source / "checkpoint")
            plan = StoragePlan.of(original.model, Precision("float32", "kept"), original.weights)
            save_model(original.model, source / "stored", plan, original.weights)
            made[name] = Stored(source / "checkpoint", model, plan, source / "stored")
        return made[name]

    return store


@pytest.mark.parametrize("name", FORMATS)
def test_a_checkpoint_has_the_numbers_of_its_codes(name: str, stored: Callable[[str], Stored]) -> None:
    expected = dict(stored(name).model.named_parameters())
    weights = load_stored(stored(name).source).weights
    assert weights.keys() == expected.keys()
    for parameter, weight in weights.items():
        torch.testing.assert_close(weight.read(), expected[parameter].detach(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", FORMATS)
def test_a_bundle_holds_the_same_numbers_in_blocks(name: str, stored: Callable[[str], Stored]) -> None:
    form = FORMATS[name][2]
    plan = stored(name).plan
    layers = [parameter for parameter in plan.layouts if parameter.startswith(DOWN)]
    assert plan.matrices.get(DOWN) == form
    assert layers == ([DOWN] if form is None else [DOWN + suffix for suffix in suffixes(form)])
    found, expected = read_weights(stored(name).folder / "model.safetensors"), stored(name).model.named_parameters()
    for parameter, tensor in expected:
        torch.testing.assert_close(found[parameter], tensor.detach(), rtol=1e-6, atol=1e-7)


def suffixes(form: Form) -> list[str]:
    return [CODES, SCALES, MINIMA] if form.minima else [CODES, SCALES]


@pytest.mark.parametrize("name", ["awq", "int8_zeros", "fp8_block"])
def test_the_graph_computes_what_the_checkpoint_does(name: str, stored: Callable[[str], Stored]) -> None:
    """In float32, against the unchanged model of transformers on the numbers of the codes."""
    made = stored(name)
    spec = dataclasses.replace(measure_spec(made.model), quantisation=made.plan.precision.quantisation)
    export_graph(made.folder, spec)
    parity = check_onnxruntime(Reference(made.model), made.folder, spec, 128, name=name)
    assert max(parity.values()) < 1e-4
    ids = torch.tensor([[5, 17, 200, 31]])
    assert torch.allclose(load_original(made.folder)(ids).logits, made.model(ids).logits, atol=1e-4)
    TorchEngine(made.folder, spec, rows=1, capacity=64)


@pytest.mark.parametrize(("name", "kernel"), [("awq", "Int4"), ("gptq_8_bits", "Int8")])
def test_tensorrt_takes_the_blocks_and_their_minima(
    name: str, kernel: str, stored: Callable[[str], Stored], tmp_path: Path
) -> None:
    """Minima are a product of their own, so TensorRT-RTX reads codes that it refuses with a zero point."""
    original = load_stored(stored(name).source)
    plan = StoragePlan.of(original.model, Precision("float16", "kept"), original.weights)
    save_model(original.model, tmp_path, plan, original.weights)
    spec = dataclasses.replace(measure_spec(original.model), dtype="float16", quantisation=plan.precision.quantisation)
    export_graph(tmp_path, spec)
    engine = rtx.build(tmp_path, "8.9")
    assert engine.layers.count(f"Datatype: {kernel},") >= len(plan.matrices)


@pytest.mark.parametrize(
    ("name", "quantisation", "lines"),
    [
        ("awq", "kept int4", ["matrices kept as they come: 14 int4 in blocks of 32 with minima"]),
        ("fp8", "kept fp8", ["matrices kept as they come: 14 fp8"]),
        (
            "gptq_scattered",
            "none",
            [
                "quantised in the checkpoint and widened to float32: model.layers.0.mlp.down_proj.weight, "
                "model.layers.0.mlp.gate_proj.weight, model.layers.0.mlp.up_proj.weight and 11 more"
            ],
        ),
    ],
)
def test_what_is_kept_and_what_is_widened_is_told(
    name: str, quantisation: str, lines: list[str], stored: Callable[[str], Stored]
) -> None:
    plan, weights = stored(name).plan, load_stored(stored(name).source).weights
    assert plan.precision.quantisation == quantisation
    assert describe_kept(plan.matrices, weights, "float32") == lines


def test_a_quantised_checkpoint_becomes_a_bundle_and_drafts_for_itself(
    stored: Callable[[str], Stored], tmp_path: Path
) -> None:
    source, lines = str(stored("awq").source), list[str]()
    build(BuildOptions(source, "int8"), tmp_path / "bundle", say=lines.append)
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert {role: spec.quantisation for role, spec in manifest.models.items()} == {
        "draft": "int8",
        "target": "kept int4",
    }
    assert "target: matrices kept as they come: 14 int4 in blocks of 32 with minima" in lines
    assert abs(manifest.quality["target"]["lost"]) < 1e-5
    assert "quantization_config" not in json.loads((tmp_path / "bundle" / "target" / "config.json").read_text())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", [Form("int4", 32), Form("int4", 16, True), Form("int8", 32, True), Form("int8")])
def test_packed_blocks_are_decoded_to_the_same_numbers(form: Form, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    largest = 8 if form.code == "int4" else 128
    groups = 64 // (form.block or 64)
    codes = torch.randint(1 - largest, largest, (6, 64), generator=generator, dtype=torch.int8)
    scales = torch.randn((6, groups), generator=generator).to(dtype)
    scales[2, 0] = 0  # such a block is all zeros
    minima = torch.randn((6, groups), generator=generator).to(dtype) if form.minima else None
    blocks = Blocks(codes, scales, minima)
    packed = pack(blocks, form, dtype)
    layouts = packed_layouts((6, 64), form, dtype)
    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in packed.items()} == {
        name: (layout.dtype, layout.shape) for name, layout in layouts.items()
    }
    assert torch.equal(dequantise(packed[CODES], packed[SCALES], packed.get(MINIMA)), blocks.decode().to(dtype))
    assert bool((packed[SCALES] != 0).all())
    assert form.code == "int4" or bool((packed[SCALES] > 0).all())


@pytest.mark.parametrize(
    ("code", "shape", "groups", "form"),
    [
        ("int4", (7, 64), 2, Form("int8", 32)),  # two codes share a byte
        ("int4", (8, 96), 1, Form("int4", 32)),  # one scale for all inputs
        ("int4", (8, 1024), 2, Form("int4", 128)),
        ("int4", (8, 40), 1, None),  # no block fits
        ("int8", (8, 40), 1, Form("int8")),
        ("int8", (8, 40), 3, None),
    ],
)
def test_the_form_of_blocks(code: str, shape: tuple[int, int], groups: int, form: Form | None) -> None:
    assert fitting_form(code, shape, groups, minima=False) == form


def refused(folder: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        load_stored(folder)
    return caught.value


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (GPTQ | {"bits": 3}, "has 3 bits in the format 'gptq'; read are 2, 4, 8 bits in gptq and gptq_v2."),
        (GPTQ | {"checkpoint_format": "marlin"}, "has 4 bits in the format 'marlin'"),
        (AWQ | {"version": "gemv"}, "has 4 bits in the version 'gemv'; read are 4 bits in version gemm."),
        (INT4 | {"format": "marlin-24"}, "is quantised in the format 'marlin-24'"),
        (compressed("nvfp4-pack-quantized", num_bits=4, type="float", strategy="tensor_group", group_size=16), "nvfp4"),
        ({"quant_method": "compressed-tensors", "config_groups": 7}, "cannot read the quantization_config"),
    ],
)
def test_another_packing_is_refused(settings: Mapping[str, Any], words: str, tmp_path: Path) -> None:
    save_quantised(tmp_path, settings, compressed_layers(INT4) if "format" in settings else gptq_layers())
    assert words in refused(tmp_path).message


@pytest.mark.parametrize("settings", [{"quant_method": "bitsandbytes", "load_in_4bit": True}, "int4", {}])
def test_a_format_that_is_not_read_is_named(settings: Any, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    with pytest.raises(BundleError) as caught:
        quantisation_settings(tmp_path)
    named = settings.get("quant_method") if isinstance(settings, dict) else settings
    assert caught.value.message == (
        f"{tmp_path} has weights quantised by {named!r}, which spectr does not read; read are compressed-tensors, "
        "gptq, awq, fp8 and GGUF files."
    )


def test_codes_without_their_scales_are_refused(tmp_path: Path) -> None:
    save_quantised(tmp_path, GPTQ, gptq_layers())
    tensors = load_file(tmp_path / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.scales"]
    save_file(tensors, tmp_path / "model.safetensors")
    assert refused(tmp_path).message == (
        "The checkpoint has model.layers.1.mlp.up_proj.qweight without qzeros or scales."
    )


def test_scales_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    def spoiled(path: str, weight: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        matrix = rounded(weight, 4, symmetric=True)
        matrix.scales[0, 0] = torch.inf
        return gptq(path, matrix, 4), matrix.weight

    save_quantised(tmp_path, GPTQ, spoiled)
    original = load_stored(tmp_path)
    plan = StoragePlan.of(original.model, Precision("float32", "kept"), original.weights)
    with pytest.raises(BundleError, match="holds infinite numbers"):
        save_model(original.model, tmp_path / "stored", plan, original.weights)


def test_the_rounding_of_the_tests_is_not_exact() -> None:
    """Else a format that is read wrongly could pass as one that is read well."""
    weight = torch.randn((SIZES["hidden_size"], GROUP), generator=torch.Generator().manual_seed(3))
    matrix: Rounded = rounded(weight, 4, symmetric=False)
    assert 0.01 < float((matrix.weight - weight).abs().max()) < 0.5


def test_a_format_that_is_not_read_is_told_before_anything_else_is_compared(tmp_path: Path) -> None:
    """Neither weights nor a tokenizer are there yet, and a large checkpoint's would take long to look at."""
    save_config(tmp_path, {"quant_method": "bitsandbytes"})
    with pytest.raises(BundleError, match="has weights quantised by 'bitsandbytes'"):
        build(BuildOptions(str(tmp_path), None), tmp_path / "bundle", say=lambda line: None)


def save_config(folder: Path, settings: Mapping[str, Any]) -> None:
    tiny_model("llama").config.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": settings}))
