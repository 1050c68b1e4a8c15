"""Builds with a double of TensorRT, whose libraries no test can load; the double has TensorRT's true signatures."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
import tensorrt_rtx
import torch
from click.testing import CliRunner
from onnx import TensorProto, helper
from tensorrt_double import RELEASES, SIGNATURES, Behaviour, Double
from tensorrt_signatures import read_signatures

from spectr_export.cli import main
from spectr_export.compiled.profiles import make_profiles, static_capacity
from spectr_export.compiled.progress import BuildProgress
from spectr_export.compiled.tensorrt import BuildLimits, BuiltEngine, build_engine
from spectr_runtime import Bundle, EngineError, UsageError
from spectr_runtime.bundle import Limits
from spectr_runtime.bundle.compiled import EngineKey
from spectr_runtime.bundle.engines import find_engine
from spectr_runtime.engines.tensorrt_library import machine_key

LIMITS, TREE = Limits(128, 32), 8
CAPACITY = static_capacity(LIMITS, TREE)
PROFILES = make_profiles(LIMITS, rows=4, tree_tokens=TREE)
NO_KERNEL = "Attention may be marked as decomposable."


class Builder:
    """A double of a builder: its timings grow, its network has one layer, and it fails only for a given reason."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        self.known = b""
        self.timings_fit = True
        self.trt: Any = None
        self.logger: Any = None

    def behaviours(self) -> Mapping[str, Behaviour]:
        return {
            "Builder.__init__": self.keep,
            "Builder.logger": lambda builder: self.logger,
            "Builder.build_serialized_network": self.build,
            "INetworkDefinition.num_layers": lambda network: 1,
            "IBuilderConfig.create_timing_cache": self.open_timings,
            "IBuilderConfig.set_timing_cache": lambda config, cache, ignore_mismatch: self.timings_fit,
            "ITimingCache.serialize": lambda cache: self.known + b"more",
            "EngineInspector.get_engine_information": lambda inspector, format: "layers in lines",
        }

    def keep(self, builder: Any, logger: Any) -> None:
        self.logger = logger

    def open_timings(self, config: Any, serialized_timing_cache: bytes) -> Any:
        self.known = serialized_timing_cache
        return self.trt.new("ITimingCache")

    def build(self, builder: Any, network: Any, config: Any) -> bytes | None:
        if not self.reasons:
            return b"plan"
        self.logger.log(self.trt.ILogger.Severity.ERROR, self.reasons.pop(0))
        return None


@pytest.fixture
def builder() -> Builder:
    return Builder()


@pytest.fixture(params=RELEASES)
def trt(request: pytest.FixtureRequest, builder: Builder, monkeypatch: pytest.MonkeyPatch) -> Double:
    """A double of the module of TensorRT, on a machine with a GPU."""
    double = builder.trt = Double(request.param, builder.behaviours())
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H100")
    return double


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A float16 graph that has the contract's inputs and no computation."""
    inputs: Mapping[str, tuple[int, tuple[int | str, ...]]] = {
        "attention_mask": (TensorProto.BOOL, ("B", 1, "T", "L")),
        "logit_index": (TensorProto.INT64, ("B", "M")),
        "past_key_values.0.key": (TensorProto.FLOAT16, ("B", 2, "S", 8)),
    }
    values = [helper.make_tensor_value_info(name, *value) for name, value in inputs.items()]
    onnx.save(helper.make_model(helper.make_graph([], "graph", values, [])), tmp_path / "model.onnx")
    return tmp_path


Build = Callable[..., BuiltEngine]


@pytest.fixture
def build(trt: Double, folder: Path) -> Build:
    def built(limits: BuildLimits | None = None) -> BuiltEngine:
        key, progress = machine_key("tensorrt", "cuda"), BuildProgress("model", lambda line: None)
        return build_engine(folder, key, PROFILES, CAPACITY, limits or BuildLimits(), progress)

    return built


def test_tensorrt_rtx_which_the_tests_build_with_has_the_signatures_of_tensorrt() -> None:
    found, expected = read_signatures(tensorrt_rtx), SIGNATURES[RELEASES[-1]]
    assert found.keys() == expected.keys()
    for name, signature in found.items():
        if isinstance(signature, list):
            assert signature, name
            assert set(signature) <= set(expected[name]), name
        else:
            assert signature == expected[name], name


def test_releases_differ_in_numbers_of_flags_and_overloads_that_are_not_used() -> None:
    oldest, newest = (SIGNATURES[release] for release in RELEASES)
    assert [name for name in newest if oldest[name] != newest[name]] == [
        "BuilderFlag.WEIGHT_STREAMING",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "Runtime.deserialize_cuda_engine",
    ]


def test_the_double_takes_what_tensorrt_takes_and_no_more(trt: Double) -> None:
    config, profile = trt.new("IBuilderConfig"), trt.new("IOptimizationProfile")
    config.set_flag(flag=trt.BuilderFlag.TF32)
    for call in (
        lambda: config.set_flag(6),
        lambda: config.set_flag(trt.BuilderFlag.TF32, 1),
        lambda: config.create_timing_cache("known"),
        lambda: profile.set_shape("input", (1,), (1,)),
        lambda: profile.set_shape("input", minimum=(1,), opt=(1,), max=(1,)),
    ):
        with pytest.raises(TypeError):
            call()
    with pytest.raises(AttributeError):
        config.memory = 1
    with pytest.raises(AttributeError):
        trt.new("INetworkDefinition").num_layers = 1


def test_the_network_is_strongly_typed_and_its_capacity_static(build: Build, trt: Double, folder: Path) -> None:
    built = build()
    assert (bytes(built.plan), built.attention, built.layers) == (b"plan", "fused", "layers in lines")
    bit = {"10": 1, "11": 0}[trt.__version__.split(".")[0]]
    assert trt.arguments("Builder.create_network") == [(1 << bit,)]
    ((model, path),) = trt.arguments("OnnxParser.parse")
    assert path == str(folder / "model.onnx")
    sizes = onnx.load_from_string(model).graph.input[2].type.tensor_type.shape.dim
    assert sizes[2].dim_value == CAPACITY
    assert trt.arguments("IBuilderConfig.clear_flag") == [(trt.BuilderFlag.TF32,)]
    assert trt.arguments("IBuilderConfig.profiling_verbosity") == [(trt.ProfilingVerbosity.DETAILED,)]
    assert len(trt.arguments("IBuilderConfig.progress_monitor")) == 1


def test_each_profile_gives_every_input_its_shapes(build: Build, trt: Double) -> None:
    build()
    assert len(trt.arguments("IBuilderConfig.add_optimization_profile")) == 2
    assert trt.arguments("IOptimizationProfile.set_shape") == [
        ("attention_mask", (1, 1, 1, 1), (4, 1, 8, 128), (4, 1, 8, 192)),
        ("logit_index", (1, 1), (4, 8), (4, 8)),
        ("past_key_values.0.key", (1, 2, 192, 8), (4, 2, 192, 8), (4, 2, 192, 8)),
        ("attention_mask", (1, 1, 1, 1), (4, 1, 32, 128), (4, 1, 32, 192)),
        ("logit_index", (1, 1), (4, 1), (4, 1)),
        ("past_key_values.0.key", (1, 2, 192, 8), (4, 2, 192, 8), (4, 2, 192, 8)),
    ]


def test_limits_reach_the_builder_and_are_left_to_it_otherwise(build: Build, trt: Double) -> None:
    build()
    assert not trt.arguments("IBuilderConfig.set_flag")
    assert not trt.arguments("IBuilderConfig.set_memory_pool_limit")
    assert not trt.arguments("IBuilderConfig.set_timing_cache")
    build(BuildLimits(memory=2**30, weight_streaming=True))
    assert trt.arguments("IBuilderConfig.set_flag") == [(trt.BuilderFlag.WEIGHT_STREAMING,)]
    assert trt.arguments("IBuilderConfig.set_memory_pool_limit") == [(trt.MemoryPoolType.WORKSPACE, 2**30)]


def test_timings_are_kept_from_build_to_build(build: Build, builder: Builder, tmp_path: Path) -> None:
    path = tmp_path / "timings"
    for expected in (b"", b"more", b"moremore"):
        build(BuildLimits(timing_cache=path))
        assert builder.known == expected
    assert path.read_bytes() == b"moremoremore"
    builder.timings_fit = False
    with pytest.raises(UsageError, match="keeps the timings of another GPU or release") as caught:
        build(BuildLimits(timing_cache=path))
    assert caught.value.hint == "Name another --timing-cache."


def test_attention_without_a_kernel_is_decomposed(build: Build, builder: Builder, trt: Double) -> None:
    builder.reasons = [NO_KERNEL]
    assert build().attention == "decomposed"
    assert trt.arguments("IAttention.decomposable") == [(True,)]
    assert len(trt.arguments("Builder.build_serialized_network")) == 2


def test_what_cannot_be_built_says_why_and_what_may_help(build: Build, builder: Builder, trt: Double) -> None:
    builder.reasons = ["No room.\nMore."]
    with pytest.raises(
        EngineError, match=r"tensorrt cannot build an engine of .*: No room\. A smaller --batch-size"
    ) as caught:
        build()
    assert caught.value.hint == "A smaller --batch-size or --tree-tokens, or another --memory, may let it."
    assert len(trt.arguments("Builder.build_serialized_network")) == 1


def test_compile_takes_every_limit_and_its_engine_serves_this_gpu_alone(
    trt: Double, builder: Builder, bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, timings = shutil.copytree(bundle_path, tmp_path / "copy"), tmp_path / "timings"
    options = ["--memory", "0.5", "--weight-streaming", "--timing-cache", str(timings)]
    result = CliRunner().invoke(main, ["compile", str(bundle), *options])
    assert result.exit_code == 0, result.output
    assert trt.arguments("IBuilderConfig.set_memory_pool_limit") == [(trt.MemoryPoolType.WORKSPACE, 2**29)] * 2
    assert trt.arguments("IBuilderConfig.set_flag") == [(trt.BuilderFlag.WEIGHT_STREAMING,)] * 2
    assert (builder.known, timings.read_bytes()) == (b"more", b"moremore")
    here = EngineKey("tensorrt", trt.__version__, ("9.0",), "NVIDIA H100")
    path, compiled = find_engine(Bundle.open(bundle), "target", machine_key("tensorrt", "cuda"), rows=1, slots=1)
    assert (compiled.key, compiled.weight_streaming, path.read_bytes()) == (here, True, b"plan")
    assert path.with_suffix(".layers.txt").read_text() == "layers in lines"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    with pytest.raises(EngineError, match=r"no engine for tensorrt .* \(NVIDIA H200\), which this machine") as caught:
        find_engine(Bundle.open(bundle), "target", machine_key("tensorrt", "cuda"), rows=1, slots=1)
    assert caught.value.hint == f"Run `spectr-export compile {bundle} --backend tensorrt` on this machine."
