"""TensorRT-RTX itself builds engines of every architecture and precision, and builds report errors and progress."""

from __future__ import annotations

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import tensorrt_rtx
from architectures import ARCHITECTURES, MIXTURES, largest_inputs
from onnx import TensorProto
from onnxscript import ir
from rtx import FLEET, FP8_FLEET, HALVES, WIDE, build, check
from tiny_models import tiny_model

from spectr_export.compiled import tensorrt as tensorrt_module
from spectr_export.compiled.progress import BuildProgress
from spectr_export.compiled.tensorrt import BuildLimits
from spectr_export.graph import tracing
from spectr_export.graph.export import export_graph
from spectr_export.original.model import measure_spec
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import QUANTISATIONS, Precision
from spectr_export.storing.save import save_model
from spectr_runtime import BundleError, EngineError
from spectr_runtime.bundle import ModelSpec

# Architectures whose products are of every kind: minima are added to a MatMul, to a Gemm, and beside stacks of experts.
WITH_MINIMA = ("llama", "gpt2", "mixtral")
ELEMENTS = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def export(folder: Path, architecture: str, dtype: str, quantisation: str = "none", **changes: Any) -> Path:
    model = tiny_model(architecture, **{**WIDE, **changes})
    precision = Precision(dtype, quantisation)
    save_model(model, folder, StoragePlan.of(model, precision), inputs=largest_inputs(model, precision))
    export_graph(folder, dataclasses.replace(measure_spec(model), dtype=dtype, quantisation=quantisation))
    return folder


Halves = Callable[..., Path]


@pytest.fixture(scope="module")
def halves(tmp_path_factory: pytest.TempPathFactory) -> Halves:
    """Return a function for the folder of an architecture with its graph in half precision, traced once for both types.

    The trace is the same for all precisions: quantised weights change a graph only after it, and a graph in bfloat16 is
    a graph in float16 with another type.
    """
    made: dict[tuple[str, str, str], Path] = {}
    traced: dict[tuple[str, bool], ir.Model] = {}
    trace = tracing.trace

    def trace_once(model: Any, spec: ModelSpec) -> ir.Model:
        key = (spec.architecture, model.model.config.tie_word_embeddings)  # codes of the last layer are not shared
        if key not in traced:
            traced[key] = trace(model, spec)
        return traced[key].clone()

    def get(architecture: str, dtype: str, quantisation: str = "none") -> Path:
        asked = (architecture, dtype, quantisation)
        if asked not in made:
            folder = tmp_path_factory.mktemp("_".join(asked))
            if dtype == "bfloat16":
                made[asked] = retyped(get(architecture, "float16", quantisation), folder)
            else:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(tracing, "trace", trace_once)
                    made[asked] = export(folder, architecture, dtype, quantisation)
        return made[asked]

    return get


def read(folder: Path) -> onnx.ModelProto:
    return onnx.load(folder / "model.onnx", load_external_data=False)


def retyped(source: Path, folder: Path) -> Path:
    """Make a float16 graph bfloat16. The weights keep their bytes and so become other numbers, which no build reads."""
    graph = read(source)
    half, brain = ELEMENTS.values()
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


def summary(graph: onnx.ModelProto) -> list[Any]:
    """Return the operators in order, with the types to which they cast, and the initializers' types and sizes."""
    operators = [(node.op_type, [a.i for a in node.attribute if a.name == "to"]) for node in graph.graph.node]
    return operators + [(tensor.name, tensor.data_type, list(tensor.dims)) for tensor in graph.graph.initializer]


COMBINATIONS = [
    (architecture, quantisation)
    for architecture in ARCHITECTURES
    for quantisation in QUANTISATIONS
    if quantisation != "int4-asymmetric" or architecture in WITH_MINIMA
]
# Each quantisation, each architecture with attention of another kind, and all kinds of layers are among these.
QUICK = {
    *(("llama", quantisation) for quantisation in QUANTISATIONS),
    *(("mixtral", "none"), ("mixtral", "fp8"), ("gpt_oss", "int8"), ("gemma3_text", "int4"), ("gemma2", "none")),
    *(("gpt2", "fp8"), ("opt", "int8"), ("bloom", "none"), ("falcon", "int4"), ("phi", "none")),
}


@pytest.mark.parametrize(
    ("architecture", "quantisation"),
    [pytest.param(*one, marks=() if one in QUICK else pytest.mark.thorough) for one in COMBINATIONS],
)
def test_every_architecture_compiles_in_both_half_precisions(
    halves: Halves, architecture: str, quantisation: str
) -> None:
    if quantisation == "fp8" and architecture in MIXTURES:
        with pytest.raises(BundleError, match="is a mixture of experts, which cannot be stored in fp8"):
            halves(architecture, "float16", quantisation)
        return
    for dtype in HALVES:
        folder = halves(architecture, dtype, quantisation)
        check(build(folder, *(FP8_FLEET if quantisation == "fp8" else FLEET)), folder, dtype, quantisation)


@pytest.mark.parametrize("capability", FLEET)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_each_capability_compiles_alone(halves: Halves, architecture: str, dtype: str, capability: str) -> None:
    folder = halves(architecture, dtype)
    check(build(folder, capability), folder, dtype, "none")


@pytest.mark.parametrize(
    ("architecture", "quantisation"), [("gpt2", "none"), ("llama", "int4"), ("opt", "int8"), ("llama", "fp8")]
)
def test_a_graph_that_shares_its_trace_is_what_an_export_gives(
    halves: Halves, architecture: str, quantisation: str, tmp_path: Path
) -> None:
    shared = halves(architecture, "bfloat16", quantisation)
    whole = export(tmp_path, architecture, "bfloat16", quantisation)
    assert summary(read(shared)) == summary(read(whole))


def test_attention_is_fused_where_there_is_a_kernel(halves: Halves, tmp_path: Path) -> None:
    assert build(halves("llama", "float16")).attention == "fused"
    assert build(export(tmp_path, "llama", "float16", hidden_size=32)).attention == "decomposed"


def test_float32_compiles_with_attention_decomposed(bundle_path: Path) -> None:
    assert build(bundle_path / "target").attention == "decomposed"


def test_weights_that_are_missing_are_refused(halves: Halves, tmp_path: Path) -> None:
    shutil.copy(halves("llama", "float16") / "model.onnx", tmp_path)
    with pytest.raises(EngineError, match=r"does not take the graph in .*: weights: .*embed_tokens\.weight"):
        build(tmp_path)


def test_a_node_that_tensorrt_does_not_know_is_named(halves: Halves, tmp_path: Path) -> None:
    graph = read(halves("llama", "float16"))
    index, node = next((index, node) for index, node in enumerate(graph.graph.node) if node.op_type == "Cos")
    graph.graph.node[index].op_type = "StringNormalizer"
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
        build(halves("llama", "float16"), progress=BuildProgress("model", interrupt, lambda: float(next(minutes))))


def test_progress_goes_from_start_to_end(halves: Halves) -> None:
    lines: list[str] = []
    minutes = itertools.count(step=60)
    build(halves("llama", "float16"), progress=BuildProgress("model", lines.append, lambda: float(next(minutes))))
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
