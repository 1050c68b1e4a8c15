"""One model of a bundle to one TensorRT engine: a strongly typed network, its weights read where they stand.

``tensorrt`` (10.15 and later) and ``tensorrt-rtx`` have one Python API. TensorRT builds for the GPU that it runs on;
TensorRT-RTX for named compute capabilities, and needs no GPU to do so.
"""

# L attention length, S slots.
from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx

from spectr_export.compiled.profiles import check_coverage, fix_capacity, read_dimensions, shapes
from spectr_export.compiled.progress import BuildProgress, make_monitor
from spectr_runtime.bundle.compiled import EngineKey, Profile
from spectr_runtime.bundle.layout import GRAPH
from spectr_runtime.engines.tensorrt_library import Log, load_tensorrt, make_logger
from spectr_runtime.errors import EngineError, UsageError


@dataclasses.dataclass(frozen=True, slots=True)
class BuildLimits:
    """What a build may use.

    Attributes:
        memory: Bytes of GPU memory that one layer may take as workspace; None leaves it to TensorRT.
        weight_streaming: Whether the engine may stream weights that do not fit on the GPU from the host.
        timing_cache: File that keeps kernel timings from build to build; TensorRT only.
    """

    memory: int | None = None
    weight_streaming: bool = False
    timing_cache: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine in memory.

    Attributes:
        plan: Its bytes.
        attention: ``fused`` or ``decomposed``.
        layers: What it consists of, as TensorRT's engine inspector tells.
    """

    plan: memoryview
    attention: str
    layers: str


def build_engine(
    folder: Path,
    key: EngineKey,
    profiles: Sequence[Profile],
    capacity: int,
    limits: BuildLimits,
    progress: BuildProgress,
) -> BuiltEngine:
    """Build an engine.

    Attention that has no fused kernel, as in float32 or with small heads, is decomposed, and only then.

    Args:
        folder: Folder of one model of a bundle.
        key: What the engine is for.
        profiles: The calls that it serves.
        capacity: Slots of a row.
        limits: What the build may use.
        progress: Follows the build.

    Raises:
        EngineError: The flavour is not installed, does not take a node of the graph, or fails to build.
        BundleError: The graph's inputs are not the contract's.
        KeyboardInterrupt: The build was interrupted.
    """
    graph = onnx.load(folder / GRAPH, load_external_data=False)
    fix_capacity(graph, capacity)
    check_coverage(read_dimensions(graph), profiles)
    trt, log = load_tensorrt(key.flavour), Log()
    builder = trt.Builder(make_logger(trt, log))
    for attention in _attention_forms(graph):
        network = _parse(trt, builder, graph, folder, log)
        if attention == "decomposed":
            _allow_decomposition(trt, network)
        config = _configure(trt, builder, key, limits)
        _add_profiles(builder, config, graph, profiles, log)
        config.progress_monitor = monitor = make_monitor(trt, progress)  # which must outlive the build
        plan = builder.build_serialized_network(network, config)
        del monitor
        if progress.interrupted:
            raise KeyboardInterrupt
        if plan is not None:
            _keep_timings(config, limits)
            return BuiltEngine(memoryview(plan), attention, _describe(trt, builder.logger, plan) or log.layers)
        if not log.has_error("decomposable"):
            break
    raise EngineError(
        f"{key.flavour} cannot build an engine of {folder}: {log.error}",
        hint="A smaller --batch-size or --tree-tokens, or another --memory, may let it.",
    )


def _attention_forms(graph: onnx.ModelProto) -> tuple[str, ...]:
    """What to try: no GPU has a fused kernel for float32, and a failed try is said on stderr by TensorRT itself."""
    types = {value.type.tensor_type.elem_type for value in graph.graph.input}
    return ("decomposed",) if onnx.TensorProto.FLOAT in types else ("fused", "decomposed")


def capabilities(trt: Any) -> dict[str, Any]:
    """Compute capabilities that TensorRT-RTX can be told to build for, such as ``8.9``."""
    members = trt.ComputeCapability.__members__
    return {f"{name[2:-1]}.{name[-1]}": member for name, member in members.items() if name.startswith("SM")}


def _parse(trt: Any, builder: Any, graph: onnx.ModelProto, folder: Path, log: Log) -> Any:
    """The network of a graph; external data are found beside the graph's file."""
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, builder.logger)
    if parser.parse(graph.SerializeToString(), str(folder / GRAPH)):
        return network
    reason = log.error
    if parser.num_errors:
        error = parser.get_error(0)
        node = " ".join(filter(None, (error.node_operator(), error.node_name())))
        reason = f"{node or 'weights'}: {error.desc().strip().splitlines()[-1]}"
    raise EngineError(
        f"{trt.__name__} {trt.__version__} does not take the graph in {folder}: {reason}",
        hint="Use TensorRT 10.15 or later, or TensorRT-RTX 1.7 or later.",
    )


def _allow_decomposition(trt: Any, network: Any) -> None:
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            layer.__class__ = trt.IAttentionInputLayer
            layer.attention.decomposable = True


def _configure(trt: Any, builder: Any, key: EngineKey, limits: BuildLimits) -> Any:
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)  # float32 means float32
    if limits.memory is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, limits.memory)
    if limits.weight_streaming:
        config.set_flag(trt.BuilderFlag.WEIGHT_STREAMING)
    if key.flavour == "tensorrt-rtx":
        allowed = capabilities(trt)
        config.num_compute_capabilities = len(key.capabilities)
        for index, capability in enumerate(key.capabilities):
            config.set_compute_capability(allowed.get(capability, trt.ComputeCapability.CURRENT), index)
    if limits.timing_cache is not None:
        _use_timings(config, limits.timing_cache)
    return config


def _use_timings(config: Any, path: Path) -> None:
    known = path.read_bytes() if path.exists() else b""
    if not config.set_timing_cache(config.create_timing_cache(known), False):
        raise UsageError(
            f"{path} keeps the timings of another GPU or release of TensorRT.", hint="Name another --timing-cache."
        )


def _keep_timings(config: Any, limits: BuildLimits) -> None:
    if limits.timing_cache is not None:
        limits.timing_cache.write_bytes(memoryview(config.get_timing_cache().serialize()))


def _add_profiles(builder: Any, config: Any, graph: onnx.ModelProto, profiles: Sequence[Profile], log: Log) -> None:
    for profile in profiles:
        added = builder.create_optimization_profile()
        for name, sizes in read_dimensions(graph).items():
            added.set_shape(name, *shapes(sizes, profile))
        if config.add_optimization_profile(added) < 0:
            raise EngineError(f"TensorRT does not take the profile {profile.name}: {log.error}")


def _describe(trt: Any, logger: Any, plan: Any) -> str:
    """The engine inspector's listing; empty where no GPU can open the engine, for which the builder's own is there."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return ""
    listing: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.ONELINE)
    return listing
