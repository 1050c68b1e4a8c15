"""Builds a TensorRT engine from one model of a bundle: a strongly typed network that reads the bundle's weights.

``tensorrt`` (10.15 and later) and ``tensorrt-rtx`` have the same Python API. TensorRT builds for this machine's GPU;
TensorRT-RTX builds for named compute capabilities, and needs no GPU to do so.
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
    """The resources that TensorRT may use.

    Attributes:
        memory: Bytes of GPU memory that one layer may take as workspace; None leaves the limit to TensorRT.
        weight_streaming: Whether the engine may stream weights that do not fit on the GPU from the host.
        timing_cache: File that keeps kernel timings from one build to the next; for TensorRT only.
    """

    memory: int | None = None
    weight_streaming: bool = False
    timing_cache: Path | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class BuiltEngine:
    """An engine in memory.

    Attributes:
        plan: The bytes of the engine, which TensorRT calls its plan.
        attention: ``fused`` or ``decomposed``: whether attention runs as one kernel or as the products it is made of.
        layers: The listing of the engine's layers by TensorRT's engine inspector.
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

    Attention is decomposed only if TensorRT has no fused kernel for it, as in float32 or with small heads.

    Args:
        folder: Folder of one model of a bundle.
        key: The library, its release and the GPUs for which the engine is built.
        profiles: The shapes of the calls that the engine serves.
        capacity: Slots of a row.
        limits: The resources that TensorRT may use.
        progress: Follows the build.

    Raises:
        EngineError: The library is not installed, does not support a node of the graph, or fails to build.
        BundleError: The graph's inputs are not those of the engine contract.
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
        # The monitor has to outlive the build, so a variable holds it.
        config.progress_monitor = monitor = make_monitor(trt, progress)
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
    """Return the forms of attention to try, in order.

    Fused attention is not tried in float32, for which no GPU has a kernel: TensorRT itself prints every failure.
    """
    types = {value.type.tensor_type.elem_type for value in graph.graph.input}
    return ("decomposed",) if onnx.TensorProto.FLOAT in types else ("fused", "decomposed")


def capabilities(trt: Any) -> dict[str, Any]:
    """Return the compute capabilities for which TensorRT-RTX can build, such as ``8.9``, and its constants for them."""
    members = trt.ComputeCapability.__members__
    return {f"{name[2:-1]}.{name[-1]}": member for name, member in members.items() if name.startswith("SM")}


def _parse(trt: Any, builder: Any, graph: onnx.ModelProto, folder: Path, log: Log) -> Any:
    """Return the network of a graph; the parser finds the weights beside the graph's file."""
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
    config.clear_flag(trt.BuilderFlag.TF32)  # TF32 would round the inputs of float32 products to 10 bits
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
    """Return the engine inspector's listing, or nothing if this machine has no GPU that can open the engine."""
    engine = trt.Runtime(logger).deserialize_cuda_engine(plan)
    if engine is None:
        return ""
    listing: str = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.ONELINE)
    return listing
