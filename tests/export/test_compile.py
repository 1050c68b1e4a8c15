"""Engines built for real by TensorRT-RTX, which needs no GPU to build; nothing here runs one."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest
import tensorrt_rtx
from architectures import ARCHITECTURES
from click.testing import CliRunner, Result
from onnx import TensorProto
from tiny_models import tiny_model

from spectr_export import tensorrt as tensorrt_module
from spectr_export.cli import main
from spectr_export.compile import choose_key
from spectr_export.graph import export_graph
from spectr_export.model import measure_spec, save_model
from spectr_export.precision import Precision
from spectr_export.profiles import make_profiles, static_capacity
from spectr_export.progress import Progress
from spectr_export.tensorrt import BuildLimits, BuiltEngine, build_engine, capabilities
from spectr_runtime import Bundle, BundleError, EngineError, UsageError
from spectr_runtime.bundle import Limits
from spectr_runtime.compiled import EngineKey, find_engine, list_engines

VERSION = str(tensorrt_rtx.__version__)
FLEET = ("8.0", "8.9", "12.0")
LIMITS, TREE = Limits(128, 32), 8
HALVES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def quiet(line: str) -> None:
    """Takes a line of progress."""


def build(
    folder: Path, *chosen: str, limits: BuildLimits | None = None, progress: Progress | None = None
) -> BuiltEngine:
    profiles = make_profiles(LIMITS, rows=4, tree_tokens=TREE)
    key = EngineKey("tensorrt-rtx", VERSION, chosen or FLEET)
    progress = progress or Progress("model", quiet)
    return build_engine(folder, key, profiles, static_capacity(LIMITS, TREE), limits or BuildLimits(), progress)


Halves = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Halves:
    """Gives an architecture's model folder with its graph in a half precision."""
    made: dict[tuple[str, str], Path] = {}

    def export(architecture: str, dtype: str) -> Path:
        if (architecture, dtype) not in made:
            folder, model = tmp_path_factory.mktemp(f"{architecture}_{dtype}"), tiny_model(architecture)
            save_model(model, folder, Precision(dtype))
            export_graph(folder, dataclasses.replace(measure_spec(model), dtype=dtype))
            made[architecture, dtype] = folder
        return made[architecture, dtype]

    return export


def read(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "model.onnx", load_external_data=False)


def retyped(source: Path, folder: Path) -> Path:
    """A float16 graph as bfloat16: what an export in bfloat16 gives, without tracing the model again.

    The weights keep their bytes and so become other numbers, which no build looks at.
    """
    graph = read(source)
    half, brain = HALVES["float16"], HALVES["bfloat16"]
    for value in (*graph.graph.input, *graph.graph.output, *graph.graph.value_info):
        if value.type.tensor_type.elem_type == half:
            value.type.tensor_type.elem_type = brain
    for attribute in itertools.chain.from_iterable(node.attribute for node in graph.graph.node):
        if attribute.name in ("to", "stash_type") and attribute.i == half:
            attribute.i = brain
    for tensor in (*graph.graph.initializer, *_constants(graph)):
        if tensor.data_type == half:
            tensor.data_type = brain
    shutil.copy(source / "model.safetensors", folder)
    onnx.save(graph, folder / "model.onnx")
    return folder


def _constants(graph: onnx.ModelProto) -> list[TensorProto]:
    return [attribute.t for node in graph.graph.node for attribute in node.attribute if attribute.HasField("t")]


def summary(graph: onnx.ModelProto) -> list[tuple[str, list[int]]]:
    """Operators in their order, with the types that they cast to."""
    return [(node.op_type, [a.i for a in node.attribute if a.name == "to"]) for node in graph.graph.node]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_compiles_in_both_half_precisions(halves: Halves, architecture: str, tmp_path: Path) -> None:
    half = halves(architecture, "float16")
    for folder in (half, retyped(half, tmp_path)):
        built = build(folder)
        assert len(built.plan) > 1_000_000
        assert "logits" in built.layers


@pytest.mark.parametrize("capability", FLEET)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_each_capability_compiles_alone(halves: Halves, architecture: str, dtype: str, capability: str) -> None:
    assert len(build(halves(architecture, dtype), capability).plan) > 1_000_000


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_a_retyped_graph_is_what_an_export_in_bfloat16_gives(halves: Halves, architecture: str, tmp_path: Path) -> None:
    graphs = [read(retyped(halves(architecture, "float16"), tmp_path)), read(halves(architecture, "bfloat16"))]
    assert summary(graphs[0]) == summary(graphs[1])
    found, expected = ([tensor.data_type for tensor in graph.graph.initializer] for graph in graphs)
    assert found == expected


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama whose heads are wide enough for the fused kernels."""
    folder, model = tmp_path_factory.mktemp("wide"), tiny_model("llama", hidden_size=64, intermediate_size=64)
    save_model(model, folder, Precision("float16"))
    export_graph(folder, dataclasses.replace(measure_spec(model), dtype="float16"))
    return folder


@pytest.mark.parametrize(
    ("architecture", "quantisation"),
    [("llama", "int4"), ("llama", "int8"), ("gemma2", "int4"), ("gpt_neox", "int4"), ("qwen3_moe", "int4")],
)
def test_quantised_weights_compile(tmp_path: Path, architecture: str, quantisation: str) -> None:
    model = tiny_model(architecture)
    save_model(model, tmp_path, Precision("float16", quantisation))
    spec = dataclasses.replace(measure_spec(model), dtype="float16", quantisation=quantisation)
    export_graph(tmp_path, spec)
    assert quantisation.capitalize() in build(tmp_path).layers


def test_attention_is_fused_where_there_is_a_kernel(wide: Path, halves: Halves) -> None:
    assert build(wide).attention == "fused"
    assert build(halves("llama", "float16")).attention == "decomposed"


def test_float32_compiles_with_attention_decomposed(bundle_path: Path) -> None:
    assert build(bundle_path / "target").attention == "decomposed"


def test_weights_that_are_missing_are_refused(halves: Halves, tmp_path: Path) -> None:
    shutil.copy(halves("llama", "float16") / "model.onnx", tmp_path)
    with pytest.raises(EngineError, match=r"does not take the graph in .*: weights: .*embed_tokens\.weight"):
        build(tmp_path)


def test_a_node_that_tensorrt_does_not_know_is_named(halves: Halves, tmp_path: Path) -> None:
    graph = read(halves("llama", "float16"))
    place, node = next((place, node) for place, node in enumerate(graph.graph.node) if node.op_type == "Cos")
    graph.graph.node[place].op_type = "StringNormalizer"
    shutil.copy(halves("llama", "float16") / "model.safetensors", tmp_path)
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(EngineError, match=f"does not take the graph in .*: StringNormalizer {node.name}") as caught:
        build(tmp_path)
    assert "TensorRT-RTX 1.7" in caught.value.hint


def test_a_graph_with_another_dynamic_size_is_refused(halves: Halves, tmp_path: Path) -> None:
    graph = read(halves("llama", "float16"))
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "N"
    onnx.save(graph, tmp_path / "model.onnx")
    with pytest.raises(BundleError, match="Input input_ids of the graph has the dynamic size 'N'"):
        build(tmp_path)


def test_an_interrupt_ends_the_build(halves: Halves) -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    minutes = itertools.count(step=60)
    with pytest.raises(KeyboardInterrupt):
        build(halves("llama", "float16"), progress=Progress("model", interrupt, lambda: float(next(minutes))))


def test_progress_goes_from_start_to_end(wide: Path) -> None:
    lines: list[str] = []
    minutes = itertools.count(step=60)
    build(wide, progress=Progress("model", lines.append, lambda: float(next(minutes))))
    assert lines[0].startswith("model: 0%, building engine")
    done = [int(line.split("%")[0].removeprefix("model: ")) for line in lines]
    assert done == sorted(done)
    assert done[-1] > 80


def test_builds_keep_to_a_memory_limit_and_stream_weights(halves: Halves, monkeypatch: pytest.MonkeyPatch) -> None:
    configs: list[Any] = []
    configure = tensorrt_module._configure

    def kept(*arguments: Any) -> Any:
        configs.append(configure(*arguments))
        return configs[-1]

    monkeypatch.setattr(tensorrt_module, "_configure", kept)
    build(halves("llama", "bfloat16"), limits=BuildLimits(memory=2**26, weight_streaming=True))
    build(halves("llama", "bfloat16"))
    (limited, *_), plain = configs, configs[-1]
    workspace, streaming = tensorrt_rtx.MemoryPoolType.WORKSPACE, tensorrt_rtx.BuilderFlag.WEIGHT_STREAMING
    assert (limited.get_memory_pool_limit(workspace), limited.get_flag(streaming)) == (2**26, True)
    assert (plain.get_memory_pool_limit(workspace) > 2**26, plain.get_flag(streaming)) == (True, False)
    assert not plain.get_flag(tensorrt_rtx.BuilderFlag.TF32)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture
def bundle(bundle_path: Path, tmp_path: Path) -> Path:
    output = tmp_path / "copy.bundle"
    shutil.copytree(bundle_path, output)
    return output


def compile_(bundle: Path, *options: object) -> Result:
    return run("compile", bundle, "--backend", "tensorrt-rtx", *options)


def test_compile_puts_engines_into_the_bundle_and_leaves_its_hash(bundle: Path) -> None:
    before = Bundle.open(bundle).sha256
    result = compile_(bundle, "--compute-capability", "8.9", "--compute-capability", "8.0", "--tree-tokens", 17)
    assert result.exit_code == 0, result.output
    name = f"tensorrt-rtx-{VERSION}-sm80-sm89"
    lines = result.stdout.splitlines()
    assert [line.rsplit(": ", 1)[0] for line in lines] == [
        str(bundle / role / "engines" / f"{name}.engine") for role in ("draft", "target")
    ]
    opened = Bundle.open(bundle)
    assert opened.sha256 == before
    path, compiled = find_engine(opened, "target", EngineKey("tensorrt-rtx", VERSION, ("8.0",)))
    assert (path.name, compiled.capacity, compiled.rows) == (f"{name}.engine", 192, 32)
    assert (compiled.attention, compiled.weight_streaming) == ("decomposed", False)
    assert {file.name for file in path.parent.iterdir()} == {
        f"{name}.{ending}" for ending in ("engine", "json", "layers.txt")
    }
    assert "logits" in (path.parent / f"{name}.layers.txt").read_text()
    assert f"target: tensorrt-rtx {VERSION} on compute capability 8.0, 8.9, up to 32 rows of 192 slots" in result.stderr


def test_compiling_again_replaces_the_engines(bundle: Path) -> None:
    for rows in (2, 3):
        assert compile_(bundle, "--compute-capability", "8.9", "--batch-size", rows).exit_code == 0
    ((_, compiled),) = list_engines(Bundle.open(bundle), "target").items()
    assert compiled.rows == 3


def test_inspect_lists_engines_and_check_finds_a_swapped_one(bundle: Path) -> None:
    assert compile_(bundle, "--compute-capability", "12.0", "--batch-size", 2).exit_code == 0
    engine = f"tensorrt-rtx {VERSION} on compute capability 12.0, up to 2 rows of 192 slots"
    assert [line for line in run("inspect", bundle).stdout.splitlines() if "12.0" in line] == [
        f"engines     target: {engine}",
        f"            draft: {engine}",
    ]
    assert "2 engines are as they were compiled" in run("check", bundle).stderr
    draft, target = (next((bundle / role / "engines").glob("*.engine")) for role in ("draft", "target"))
    shutil.copy(draft, target)
    result = run("check", bundle)
    assert (result.exit_code, result.stdout) == (42, "")
    assert "is not the engine that was compiled" in result.stderr


def test_without_a_gpu_compile_asks_for_a_capability(bundle: Path) -> None:
    result = compile_(bundle)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: There is no GPU to compile for: ")
    assert result.stderr.splitlines()[-1].endswith("--backend tensorrt-rtx --compute-capability 8.9.")


def test_a_capability_that_is_not_known_is_refused_with_those_that_are(bundle: Path) -> None:
    result = compile_(bundle, "--compute-capability", "8.9", "--compute-capability", "5.2")
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: TensorRT-RTX {VERSION} does not compile for compute capability 5.2; "
        f"it must be one of {', '.join(capabilities(tensorrt_rtx))}.\n"
    )


def test_options_of_the_other_flavour_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--timing-cache is for TensorRT"):
        choose_key("tensorrt-rtx", ["8.9"], BuildLimits(timing_cache=Path("timings")))
    monkeypatch.setattr("spectr_export.compile.load_tensorrt", lambda flavour: SimpleNamespace())
    with pytest.raises(UsageError, match="--compute-capability is for TensorRT-RTX"):
        choose_key("tensorrt", ["8.9"], BuildLimits())
