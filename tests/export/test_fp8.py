"""Models in fp8: their matrices are E4M3, and the inputs of their layers are rounded to E4M3."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from architectures import PROMPT, largest_inputs
from click.testing import CliRunner, Result
from onnx import TensorProto, helper
from rounded import check_engines_round, reads_of_the_host
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import save_checkpoint, tiny_model

from spectr_export.checks.parity import check_onnxruntime, check_rounded
from spectr_export.checks.reference import Reference
from spectr_export.checks.tolerance import within_spread
from spectr_export.cli import main
from spectr_export.compiled.compile import refuse_fp8
from spectr_export.graph.export import export_graph
from spectr_export.member import Member
from spectr_export.original.model import load_original, measure_spec
from spectr_export.rehearsal import Estimate
from spectr_export.storing.activations import measure_inputs
from spectr_export.storing.plan import HEADROOM, StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.quantiser import quantise
from spectr_export.storing.save import save_model
from spectr_export.weights import read_header
from spectr_runtime import Bundle, BundleError, ModelSpec, UsageError
from spectr_runtime.bundle.compiled import EngineKey
from spectr_runtime.bundle.e4m3 import LARGEST, encode
from spectr_runtime.bundle.weights import dequantise, read_input_scales
from spectr_runtime.contract import Engine
from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine
from spectr_runtime.engines.torch import TorchEngine

WEIGHTS = "model.safetensors"
ELEMENTS = {torch.float32: TensorProto.FLOAT, torch.float16: TensorProto.FLOAT16}
# Numbers of linear layers and of distinct inputs in each layer: queries, keys and values share one, gate and up too.
LAYERS = {"llama": (7, 4), "gemma2": (7, 4), "opt": (6, 4), "gpt2": (4, 4)}
Store = Callable[[str, str], tuple[Path, ModelSpec]]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a function that stores a family in fp8 and a type, and returns its folder and sizes."""
    made: dict[tuple[str, str], tuple[Path, ModelSpec]] = {}

    def store(family: str, dtype: str) -> tuple[Path, ModelSpec]:
        if (family, dtype) not in made:
            folder, model, precision = tmp_path_factory.mktemp(family), tiny_model(family), Precision(dtype, "fp8")
            spec = dataclasses.replace(measure_spec(model), dtype=dtype, quantisation="fp8")
            save_model(model, folder, StoragePlan.of(model, precision), inputs=largest_inputs(model, precision))
            export_graph(folder, spec)
            made[family, dtype] = folder, spec
        return made[family, dtype]

    return store


FOLDERS = [
    ("llama", "float32"),
    ("llama", "bfloat16"),
    ("opt", "float32"),
    ("opt", "float16"),
    ("gemma2", "float32"),
    ("gpt2", "float16"),
]


@pytest.mark.parametrize(("family", "dtype"), FOLDERS)
def test_the_graph_agrees_with_transformers_with_and_without_rounding(stored: Store, family: str, dtype: str) -> None:
    folder, spec = stored(family, dtype)
    exact = Reference(load_original(folder, rounding=False))
    found = check_onnxruntime(exact, folder, spec, 128, name=family)
    # OPT scales its queries by a constant, which half precision rounds.
    assert 0 < max(found.values()) < (5e-4 if dtype == "float16" else 1e-4)
    assert check_rounded(Reference(load_original(folder)), folder, spec, 128, name=family)["rounded"] > 0


@pytest.mark.parametrize("family", LAYERS)
def test_all_engines_round_as_the_reference_does(stored: Store, family: str) -> None:
    folder, spec = stored(family, "float32")
    engines: list[Engine] = [
        TorchEngine(folder, spec, rows=3, capacity=64),
        # The session has the optimisations that decoding uses.
        OnnxRuntimeEngine(folder, spec, rows=3, capacity=64),
    ]
    check_engines_round(folder, engines, family, 0.02, near_enough=within_spread)


def test_no_pass_on_a_device_copies_scales_from_the_host(stored: Store) -> None:
    assert reads_of_the_host(*stored("llama", "float32")) == []


@pytest.mark.parametrize(("family", "dtype"), FOLDERS)
def test_products_of_one_input_round_it_once(stored: Store, family: str, dtype: str) -> None:
    folder, spec = stored(family, dtype)
    onnx.checker.check_model(folder / "model.onnx")
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    operators = Counter(node.op_type for node in graph.node)
    matrices, inputs = LAYERS[family]
    assert operators["QuantizeLinear"] == inputs * spec.layers
    assert operators["DequantizeLinear"] == (inputs + matrices) * spec.layers
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    products = [node for node in graph.node if made_by.get([*node.input, "", ""][1]) == "DequantizeLinear"]
    assert len(products) == matrices * spec.layers
    assert {made_by[node.input[0]] for node in products} == {"DequantizeLinear"}


def test_weights_are_stored_once_in_eight_bits(stored: Store) -> None:
    folder, spec = stored("llama", "bfloat16")
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    read = {entry.value for tensor in graph.initializer for entry in tensor.external_data if entry.key == "offset"}
    header = read_header(folder / WEIGHTS)
    unread = {name.split(".")[-3] for name, entry in header.items() if str(entry.offset) not in read}
    # These are the scales of inputs that several products share: only the first one is read.
    assert unread == {"k_proj", "v_proj", "up_proj"}
    codes = [entry for name, entry in header.items() if name.endswith(".codes")]
    assert {entry.dtype for entry in codes} == {"F8_E4M3"}
    assert len(codes) == LAYERS["llama"][0] * spec.layers


@pytest.mark.parametrize("dtype", ELEMENTS)
def test_onnxruntime_rounds_to_the_same_codes(dtype: torch.dtype) -> None:
    every = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float().nan_to_num(0)
    midway = every + (every.abs() / 16).clamp(min=2**-10)  # includes ties, and numbers beyond 448
    some = 3 * torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    numbers = torch.cat([every, midway, some, torch.tensor([-0.0, 464.0, -1e4, 1e-6])]).to(dtype)
    for scale in (torch.tensor(number, dtype=dtype) for number in (1.0, 0.0123, 0.3337)):
        expected = encode(numbers, scale).to(dtype) * scale
        assert torch.equal(run_rounding(numbers, scale), expected)


def run_rounding(numbers: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Round numbers by ONNX Runtime's QuantizeLinear and DequantizeLinear."""
    kind = ELEMENTS[numbers.dtype]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale"], ["codes"], output_dtype=TensorProto.FLOAT8E4M3FN),
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, kind, ["N"]) for name in "xy")
    scales = [helper.make_tensor_value_info("scale", kind, [])]
    graph = helper.make_graph(nodes, "rounding", [x, *scales], [y])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (found,) = session.run(None, {"x": numbers.numpy(), "scale": scale.numpy()})
    return torch.from_numpy(found)


def test_numbers_beyond_the_largest_code_stay_there() -> None:
    codes = encode(torch.tensor([449.0, 1e9, -1e9, torch.inf]), torch.tensor(1.0))
    assert codes.float().tolist() == [LARGEST, LARGEST, -LARGEST, LARGEST]
    assert bool(encode(torch.tensor(torch.nan), torch.tensor(1.0)).isnan())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_matrix_has_three_bits_of_fraction_and_a_row_of_zeros_stays_one(dtype: torch.dtype) -> None:
    matrix_NK = torch.randn(6, 64, generator=torch.Generator().manual_seed(0))
    matrix_NK[2] = 0
    codes, scales = quantise(matrix_NK, "fp8", dtype).values()
    assert (codes.dtype, tuple(codes.shape)) == (torch.float8_e4m3fn, (64, 6))
    assert (scales.dtype, tuple(scales.shape)) == (dtype, (6,))
    found_NK = dequantise(codes, scales.float())
    # Half of a step is a sixteenth of the number, or of the smallest number that has all its bits.
    allowed_NK = 0.0626 * matrix_NK.abs() + 2**-10 * scales.float()[:, None]
    # A scale in bfloat16 may be rounded down, and then the largest weight is clipped.
    allowed_NK += 0.004 * matrix_NK.abs()
    assert bool(((found_NK - matrix_NK).abs() <= allowed_NK).all())
    assert codes.float().abs().amax(0).tolist() == [LARGEST, LARGEST, 0, LARGEST, LARGEST, LARGEST]
    assert float(scales[2]) == 1


def test_scales_leave_room_above_the_largest_input(stored: Store) -> None:
    folder, _ = stored("llama", "float32")
    model, seen = tiny_model("llama"), {}

    def keep(_layer: object, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        seen["largest"] = float(inputs[0].abs().max())

    model.model.layers[1].mlp.down_proj.register_forward_hook(keep)
    with torch.inference_mode():
        model(torch.tensor([PROMPT]))
    scales = read_input_scales(folder / WEIGHTS)
    scale = float(scales["model.layers.1.mlp.down_proj.weight"])
    assert scale * LARGEST == pytest.approx(HEADROOM * seen["largest"], rel=1e-5)
    same = {float(scales[f"model.layers.0.self_attn.{name}_proj.weight"]) for name in "qkv"}
    assert len(same) == 1


def test_measuring_leaves_no_hooks_behind() -> None:
    model = tiny_model("llama")
    names = StoragePlan.of(model, Precision("float32", "fp8")).matrices
    assert measure_inputs(model, names, PROMPT).keys() == names.keys()
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("quantisation", ["fp8", "int8"])
def test_a_layer_that_no_text_reaches_is_stored_with_scales_of_one(tmp_path: Path, quantisation: str) -> None:
    model, precision = tiny_model("llama"), Precision("float32", quantisation)
    model.model.spare = torch.nn.Linear(6, 4, bias=False)
    save_model(model, tmp_path, StoragePlan.of(model, precision), inputs=largest_inputs(model, precision))
    assert (load_file(tmp_path / WEIGHTS)["model.spare.weight.input_scale"] == 1).all()


def change_scales(source: Path, folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> Path:
    shutil.copytree(source, folder)
    with safe_open(source / WEIGHTS, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(source / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata)
    return folder


def test_scales_that_cut_inputs_off_are_found(stored: Store, tmp_path: Path) -> None:
    source, spec = stored("llama", "float32")

    def shrink(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if name.endswith(".input_scale")]:
            tensors[name] /= 32

    folder = change_scales(source, tmp_path / "other", shrink)
    export_graph(folder, spec)
    with pytest.raises(BundleError, match=r"Parity failed \(small.* allowed are 0\.25 of the logits' spread"):
        check_rounded(Reference(load_original(source)), folder, spec, 128, name="small")


SCALE = "model.layers.1.mlp.down_proj.weight.input_scale"
HOSTILE: Mapping[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "missing": lambda tensors: tensors.pop(SCALE),
    "negative": lambda tensors: tensors.update({SCALE: torch.tensor(-1.0)}),
    "zero": lambda tensors: tensors.update({SCALE: torch.tensor(0.0)}),
    "infinite": lambda tensors: tensors.update({SCALE: torch.tensor(torch.inf)}),
    "no number": lambda tensors: tensors.update({SCALE: torch.tensor(torch.nan)}),
    "several": lambda tensors: tensors.update({SCALE: torch.ones(2)}),
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_scale_that_is_no_positive_number_is_refused(stored: Store, tmp_path: Path, what: str) -> None:
    source, spec = stored("llama", "float32")
    folder = change_scales(source, tmp_path / "hostile", HOSTILE[what])
    users: list[Callable[[], Any]] = [
        lambda: load_original(folder),
        lambda: TorchEngine(folder, spec, rows=1, capacity=64),
    ]
    for use in users:
        with pytest.raises(BundleError, match=r"no scale for the inputs of model\.layers\.1\.mlp\.down_proj\.weight"):
            use()


def test_a_mixture_is_refused() -> None:
    with pytest.raises(
        BundleError, match="mixtral model is a mixture of experts, which cannot be stored in fp8"
    ) as caught:
        StoragePlan.of(tiny_model("mixtral"), Precision("float32", "fp8"))
    assert caught.value.hint == "Use `int8` or `int4`."


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_checkpoint(tmp_path_factory.mktemp("checkpoint"), tiny_model("llama"))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_a_bundle_in_fp8_says_what_it_costs_and_is_not_compiled_for_older_gpus(
    checkpoint: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundle"
    options = ("--quantise", "fp8", "--dtype", "float16")
    result = run("build", checkpoint, "--draft", checkpoint, "-o", output, *options)
    assert result.exit_code == 0, result.stderr
    manifest = Bundle.open(output).manifest
    assert manifest.models["target"].quantisation == "fp8"
    assert set(manifest.quality["target"]) == {"original", "lost", "rounded"}
    page = run("inspect", output).stdout.splitlines()
    assert page[1].startswith("target      llama, fp8 products and float16, 2 layers, ")
    assert "nats per token" in page[3]
    assert page[3].endswith(" of their spread of transformers, rounded alike")
    result = run("check", output)
    assert (result.exit_code, result.stdout) == (0, f"{output}: sound\n")
    assert "target: in fp8 products and float16, logits within" in result.stderr
    result = run(
        "compile", output, "--backend", "tensorrt-rtx", "--compute-capability", "8.9", "--compute-capability", "8.0"
    )
    assert result.exit_code == 2
    assert "in which GPUs of compute capability 8.0 do not multiply; it must be 8.9 or later" in result.stderr
    assert not (output / "target" / "engines").exists()


@pytest.mark.parametrize(("capability", "served"), [("7.5", False), ("8.6", False), ("8.9", True), ("10.0", True)])
def test_products_in_fp8_need_a_gpu_that_has_them(capability: str, served: bool) -> None:
    specs = [ModelSpec("llama", 1, 1, 8, 9, 64), ModelSpec("llama", 1, 1, 8, 9, 64, "float16", "fp8")]
    key = EngineKey("tensorrt-rtx", "1.7", (capability,))
    refuse_fp8(specs[:1], key)
    if served:
        refuse_fp8(specs, key)
        return
    with pytest.raises(UsageError, match=f"compute capability {capability} do not multiply"):
        refuse_fp8(specs, key)


def test_the_size_foretold_is_the_size_written(checkpoint: Path, stored: Store) -> None:
    folder, _ = stored("llama", "bfloat16")
    expected = Estimate.of(Member("target", checkpoint, Precision("bfloat16", "fp8")), tiny_model("llama").config)
    assert expected.size == sum(entry.length for entry in read_header(folder / WEIGHTS).values())
