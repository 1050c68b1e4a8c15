"""From a target and a draft to a bundle, each model checked against the original on the way."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from spectr_export.graph import export_graph
from spectr_export.model import in_float32, load_config, load_original, load_stored, measure_spec, save_model
from spectr_export.parity import SMALLEST_CAPACITY, check_onnxruntime
from spectr_export.refusal import refuse_unsupported
from spectr_export.source import fetch
from spectr_export.staging import refuse_output, staged
from spectr_export.tokenizer import common_vocabulary, find_end_tokens, load_tokenizer, refuse_other_tokenizer
from spectr_runtime.bundle import MANIFEST, ROLES, Bundle, Limits, Manifest, Role, file_sha256
from spectr_runtime.engine import ModelSpec
from spectr_runtime.errors import BundleError, EngineError, UsageError

TOKENS_PER_CALL = 256
# Without --capacity. Every row of a run reserves its whole capacity, and models allow far more than most texts need.
LARGEST_DEFAULT_CAPACITY = 4096
TOOLS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """What a build made.

    Attributes:
        manifest: The new bundle's manifest.
        size: Bytes of all its files.
        seconds: How long it took.
    """

    manifest: Manifest
    size: int
    seconds: float


def build(target: str, draft: str, output: Path, *, capacity: int | None, overwrite: bool, say: Say) -> Built:
    """Build a bundle.

    Args:
        target: Folder or hub id of the target.
        draft: Folder or hub id of the draft.
        output: Where the bundle goes.
        capacity: Longest text in tokens; None takes what both models were made for, up to a limit.
        overwrite: Whether a bundle at ``output`` is replaced.
        say: Takes a line of progress.

    Raises:
        UsageError: The output or the capacity cannot be.
        EngineError: ONNX Runtime is not installed.
        BundleError: A model is not supported, the pair does not fit together, or parity failed; nothing is left behind.
    """
    started = time.monotonic()
    versions = _versions()
    refuse_output(output, overwrite=overwrite)
    folders: dict[Role, Path] = {"draft": fetch(draft), "target": fetch(target)}
    configs = {role: load_config(folders[role]) for role in ROLES}
    limits = Limits(_choose_capacity(configs, capacity, say), TOKENS_PER_CALL)
    for role in ROLES:
        refuse_unsupported(configs[role], limits.capacity)
    tokenizer = load_tokenizer(folders["target"])
    refuse_other_tokenizer(tokenizer, load_tokenizer(folders["draft"]))
    end_tokens = find_end_tokens(folders["target"], configs["target"], tokenizer)
    vocabulary = common_vocabulary({role: configs[role].vocab_size for role in ROLES}, tokenizer, end_tokens)
    with staged(output) as folder:
        built = {role: _build_model(role, folders[role], folder / role, limits.capacity, say) for role in ROLES}
        tokenizer.save_pretrained(folder / "tokenizer")
        manifest = Manifest(
            models={role: spec for role, (spec, _) in built.items()},
            vocabulary=vocabulary,
            limits=limits,
            files=_hashes(folder),
            versions=versions,
            parity={role: parity for role, (_, parity) in built.items()},
        )
        _write_manifest(manifest, folder)
    return Built(manifest, bundle_size(output), time.monotonic() - started)


def check(bundle: Bundle, say: Say) -> None:
    """Run a bundle's parity again, against the weights that it carries.

    Raises:
        BundleError: Parity failed.
    """
    for role in ROLES:
        folder = bundle.model(role)
        spec, capacity = bundle.manifest.models[role], bundle.manifest.limits.capacity
        parity = check_onnxruntime(load_original(folder), folder, spec, capacity, name=role)
        say(f"{role}: {describe_parity(parity)}")


def describe_parity(parity: Mapping[str, float]) -> str:
    """Largest difference to PyTorch eager and where it was found, for a person."""
    stages = ", ".join(f"{stage} {difference:.1e}" for stage, difference in parity.items())
    return f"logits within {max(parity.values()):.1e} of transformers ({stages})"


def bundle_size(folder: Path) -> int:
    """Bytes of all files of a bundle."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _versions() -> dict[str, str]:
    """Versions of what makes and checks a bundle; ONNX Runtime has several distributions with one module."""
    try:
        tools = {tool: str(importlib.import_module(tool).__version__) for tool in TOOLS}
    except ImportError as error:
        raise EngineError(
            f"{error.name} is needed to build a bundle: {error}.", hint="Install it with `pip install 'spectr[cpu]'`."
        ) from error
    return {"spectr": importlib.metadata.version("spectr"), **tools, "python": platform.python_version()}


def _choose_capacity(configs: Mapping[Role, Any], capacity: int | None, say: Say) -> int:
    made_for: dict[str, int | None] = {
        role: getattr(config, "max_position_embeddings", None) for role, config in configs.items()
    }
    unknown = [role for role, positions in made_for.items() if positions is None]
    if unknown:
        raise BundleError(
            f"The {unknown[0]}'s config.json has no max_position_embeddings, the longest text that it was made for.",
            hint="Add it, in tokens.",
        )
    allowed = min(positions for positions in made_for.values() if positions is not None)
    if capacity is None:
        capacity = min(allowed, LARGEST_DEFAULT_CAPACITY)
        more = f"; --capacity allows up to {allowed}" if allowed > capacity else ""
        say(f"capacity {capacity} tokens per text{more}")
    if not SMALLEST_CAPACITY <= capacity <= allowed:
        raise UsageError(
            f"A capacity of {capacity} tokens is not possible; it must be {SMALLEST_CAPACITY} to {allowed}, "
            "the longest text that both models were made for.",
        )
    return capacity


def _build_model(
    role: Role, source: Path, folder: Path, capacity: int, say: Say
) -> tuple[ModelSpec, Mapping[str, float]]:
    stored = load_stored(source)
    spec = measure_spec(in_float32(stored))
    parameters = sum(parameter.numel() for parameter in stored.parameters())
    say(f"{role}: {spec.architecture}, {parameters / 1e6:.1f} M parameters, {spec.layers} layers")
    save_model(stored, folder)
    export_graph(folder, spec)
    parity = check_onnxruntime(load_original(folder), folder, spec, capacity, name=role)
    say(f"{role}: {describe_parity(parity)}")
    return spec, parity


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _write_manifest(manifest: Manifest, folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
    for name in manifest.files:
        # safetensors writes files that only their owner can read.
        shutil.copymode(path, folder / name)
