"""Compiles the models of a bundle to engines, and writes a record beside each engine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from spectr_export.compiled.profiles import make_profiles, static_capacity
from spectr_export.compiled.progress import BuildProgress
from spectr_export.compiled.tensorrt import BuildLimits, BuiltEngine, build_engine, capabilities
from spectr_export.console import Say
from spectr_runtime.backends import Flavour
from spectr_runtime.bundle import Bundle, Limits, ModelSpec, Role
from spectr_runtime.bundle.compiled import CompiledEngine, EngineKey
from spectr_runtime.bundle.layout import ENGINES
from spectr_runtime.engines.tensorrt_library import load_tensorrt, machine_key
from spectr_runtime.errors import EngineError, UsageError
from spectr_runtime.files import replace

# The first compute capability whose GPUs multiply E4M3 numbers.
FP8_CAPABILITY = (8, 9)


def compile_bundle(
    bundle: Bundle,
    flavour: Flavour,
    *,
    compute_capabilities: Sequence[str],
    capacities: Sequence[int],
    rows: int,
    tree_tokens: int,
    limits: BuildLimits,
    say: Say,
) -> list[Path]:
    """Compile each model of a bundle to one engine for each size, the largest first.

    Engines of the same key are replaced, whatever their sizes. The bundle's hash does not change, because engines are
    not part of it.

    Args:
        bundle: The bundle.
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        compute_capabilities: The compute capabilities for which TensorRT-RTX compiles, all in one engine; empty for the
            GPU of this machine.
        capacities: Tokens of the longest text of further engines, beside those for the bundle's capacity.
        rows: Most rows of a call.
        tree_tokens: Most tokens of a draft tree, including its root.
        limits: The resources that TensorRT may use.
        say: Takes a line of progress.

    Returns:
        The files of the engines.

    Raises:
        UsageError: An option does not go with the flavour, a capacity is not one that the bundle takes, or a GPU does
            not multiply in fp8, which a model needs.
        EngineError: The flavour is not installed, there is no GPU, or a build failed.
        BundleError: A graph's inputs are not those of the engine contract.
    """
    sizes = choose_sizes(bundle.manifest.limits, capacities, tree_tokens)
    key = choose_key(flavour, compute_capabilities, limits)
    refuse_fp8(bundle.manifest.models.values(), key)
    written = []
    for role in bundle.manifest.roles:
        kept = [_compile(bundle, role, key, size, rows, tree_tokens, limits, say) for size in sizes]
        _remove_others(bundle.model(role) / ENGINES, key, kept)
        written += kept
    return written


def _compile(
    bundle: Bundle,
    role: Role,
    key: EngineKey,
    size: Limits,
    rows: int,
    tree_tokens: int,
    limits: BuildLimits,
    say: Say,
) -> Path:
    """Compile a model to an engine of one size, and return the engine's file."""
    profiles = make_profiles(size, rows=rows, tree_tokens=tree_tokens)
    capacity = static_capacity(size, tree_tokens)
    say(f"{role}: {key}, up to {rows} rows of {capacity} slots")
    built = build_engine(bundle.model(role), key, profiles, capacity, limits, BuildProgress(role, say))
    say(f"{role}: attention {built.attention}")
    compiled = CompiledEngine(
        key=key,
        model_sha256=bundle.model_sha256(role),
        sha256=hashlib.sha256(built.plan).hexdigest(),
        capacity=capacity,
        profiles=profiles,
        attention=built.attention,
        weight_streaming=limits.weight_streaming,
    )
    return _write(bundle.model(role) / ENGINES, compiled, built)


def _write(folder: Path, compiled: CompiledEngine, built: BuiltEngine) -> Path:
    """Write an engine and its record, and return the engine's file."""
    path, record = (folder / f"{compiled.name}.{ending}" for ending in ("engine", "json"))
    # The old record goes first: an interruption must not leave it beside the new engine.
    folder.mkdir(exist_ok=True)
    record.unlink(missing_ok=True)
    replace(path, [built.plan])
    replace(folder / f"{compiled.name}.layers.txt", [built.layers.encode()])
    replace(record, [json.dumps(compiled.to_json(), indent=2).encode(), b"\n"])
    return path


def _remove_others(folder: Path, key: EngineKey, kept: Iterable[Path]) -> None:
    """Remove the other engines of a key, the records first: other sizes, and files whose names do not say a size."""
    names = {path.stem for path in kept}
    own = re.compile(rf"({re.escape(key.name)}(-\d+-slots)?)\.(json|engine|layers\.txt)")
    for path in sorted(folder.iterdir(), key=lambda path: path.suffix != ".json"):
        if (found := own.fullmatch(path.name)) and found[1] not in names:
            path.unlink()


def choose_sizes(limits: Limits, capacities: Sequence[int], tree_tokens: int) -> list[Limits]:
    """Return the limits for which engines are compiled, the bundle's own first and then falling.

    Of capacities that come to the same number of slots, the largest is taken.

    Args:
        limits: The limits of the bundle.
        capacities: Tokens of the longest text of further engines.
        tree_tokens: Most tokens of a draft tree, including its root.

    Raises:
        UsageError: A capacity is not one that the bundle takes.
    """
    if wrong := [capacity for capacity in capacities if not 1 <= capacity <= limits.capacity]:
        raise UsageError(
            f"--capacity is {wrong[0]}; it must be from 1 to {limits.capacity}, which the bundle was built with.",
            hint="Engines for the bundle's own capacity are always compiled.",
        )
    sizes: dict[int, Limits] = {}
    for capacity in sorted((limits.capacity, *capacities), reverse=True):
        size = dataclasses.replace(limits, capacity=capacity)
        sizes.setdefault(static_capacity(size, tree_tokens), size)
    return list(sizes.values())


def choose_key(flavour: Flavour, compute_capabilities: Sequence[str], limits: BuildLimits) -> EngineKey:
    """Return the key of the engines to compile: the library, its release and the GPUs.

    Args:
        flavour: ``tensorrt`` or ``tensorrt-rtx``.
        compute_capabilities: The compute capabilities that the user asks for; empty for the GPU of this machine.
        limits: The resources that TensorRT may use.

    Raises:
        UsageError: An option does not go with the flavour, or TensorRT-RTX does not know a compute capability.
        EngineError: The flavour is not installed, or there is no GPU and no compute capability is named.
    """
    trt = load_tensorrt(flavour)
    if flavour == "tensorrt" and compute_capabilities:
        raise UsageError(
            "TensorRT compiles for the GPU that it runs on; --compute-capability is for TensorRT-RTX.",
            hint="Leave it out, or use --backend tensorrt-rtx.",
        )
    if flavour == "tensorrt-rtx" and limits.timing_cache is not None:
        raise UsageError("TensorRT-RTX times no kernels; --timing-cache is for TensorRT.", hint="Leave it out.")
    if not compute_capabilities:
        return _this_machine(flavour)
    allowed = capabilities(trt)
    unknown = [asked for asked in compute_capabilities if asked not in allowed]
    if unknown:
        raise UsageError(
            f"TensorRT-RTX {trt.__version__} does not compile for compute capability {unknown[0]}; "
            f"it must be one of {', '.join(allowed)}."
        )
    chosen = tuple(capability for capability in allowed if capability in compute_capabilities)
    return EngineKey(flavour, str(trt.__version__), chosen)


def refuse_fp8(models: Iterable[ModelSpec], key: EngineKey) -> None:
    """Refuse to compile models in fp8 for GPUs that do not multiply in fp8.

    Raises:
        UsageError: One of the models is in fp8; the message names the first compute capability that is too old.
    """
    older = [capability for capability in key.capabilities if _numbers(capability) < FP8_CAPABILITY]
    if older and any("fp8" in model.quantisation for model in models):
        raise UsageError(
            f"The bundle has a model in fp8, in which GPUs of compute capability {older[0]} do not multiply; "
            f"it must be {'.'.join(map(str, FP8_CAPABILITY))} or later.",
            hint="Compile for such GPUs, or build the bundle in int8, int4 or half precision.",
        )


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(map(int, capability.split(".")))


def _this_machine(flavour: Flavour) -> EngineKey:
    try:
        return machine_key(flavour, "cuda")
    except EngineError as error:
        raise EngineError(
            f"There is no GPU to compile for: {error.message}",
            hint="Run this where the engine is to run, or name a GPU: --backend tensorrt-rtx --compute-capability 8.9.",
        ) from error
