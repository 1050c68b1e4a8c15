"""From a target and a draft to a bundle, each model checked against the original on the way."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import json
import platform
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from spectr_export.checks.parity import SMALLEST_CAPACITY
from spectr_export.checks.quality import encode_text, read_text
from spectr_export.member import Member, Say, build_member, check_member
from spectr_export.original.model import load_config, longest_text
from spectr_export.original.refusal import refuse_unsupported
from spectr_export.original.source import fetch
from spectr_export.original.tokenizer import common_vocabulary, find_end_tokens, load_tokenizer, refuse_other_tokenizer
from spectr_export.staging import refuse_output, staged
from spectr_export.storing.precision import FLOAT32, Precision
from spectr_runtime.bundle import ROLES, Bundle, Limits, Manifest, Role, Vocabulary
from spectr_runtime.bundle.layout import MANIFEST, TOKENIZER
from spectr_runtime.errors import EngineError, UsageError
from spectr_runtime.files import file_sha256

TOKENS_PER_CALL = 256
# Without --capacity. Every row of a run reserves its whole capacity, and models allow far more than most texts need.
LARGEST_DEFAULT_CAPACITY = 4096
TOOLS = ("torch", "transformers", "onnx", "onnxscript", "onnxruntime")

# Drafts that are made of the target; a folder of such a name is written with a path, as in ./int4.
COPIES = ("int8", "int4", "fp8")


@dataclasses.dataclass(frozen=True, slots=True)
class Prepared:
    """A pair that fits together, with everything that is known before its models are touched.

    Attributes:
        members: What the models are made of.
        configs: Their transformers configurations.
        limits: Limits of the bundle.
        tokenizer: The target's tokenizer, which the draft shares.
        vocabulary: The tokens that they share.
        ids: Tokens of the text on which to measure what a precision costs.
        versions: Tools that build.
    """

    members: Mapping[Role, Member]
    configs: Mapping[Role, Any]
    limits: Limits
    tokenizer: Any
    vocabulary: Vocabulary
    ids: Sequence[int]
    versions: Mapping[str, str]


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


def prepare(
    target: str,
    draft: str,
    *,
    capacity: int | None,
    say: Say,
    precision: Precision = FLOAT32,
    text: Path | None = None,
) -> Prepared:
    """Fetch a pair and check that it fits together.

    Args:
        target: Folder or hub id of the target.
        draft: Folder or hub id of the draft; ``int8``, ``int4`` or ``fp8`` for a copy of the target in it.
        capacity: Longest text in tokens; None takes what both models were made for, up to a limit.
        say: Takes a line of progress.
        precision: How the models are stored.
        text: File to measure on what they lose by it; None for a text of Python's own.

    Raises:
        UsageError: The capacity cannot be.
        EngineError: ONNX Runtime is not installed.
        BundleError: A model is not supported, or the pair does not fit together.
    """
    versions = _versions()
    precisions = _precisions(draft, precision)
    measured = read_text(text)
    folders: dict[Role, Path] = {"target": fetch(target)}
    folders["draft"] = folders["target"] if draft in COPIES else fetch(draft)
    configs = {role: load_config(folders[role]) for role in ROLES}
    limits = Limits(_choose_capacity(configs, capacity, say), TOKENS_PER_CALL)
    for role in ROLES:
        refuse_unsupported(configs[role], limits.capacity)
    tokenizer = load_tokenizer(folders["target"])
    refuse_other_tokenizer(tokenizer, load_tokenizer(folders["draft"]))
    end_tokens = find_end_tokens(folders["target"], configs["target"], tokenizer)
    vocabulary = common_vocabulary({role: configs[role].vocab_size for role in ROLES}, tokenizer, end_tokens)
    return Prepared(
        members={role: Member(role, folders[role], precisions[role]) for role in ROLES},
        configs=configs,
        limits=limits,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        ids=encode_text(measured, tokenizer),
        versions=versions,
    )


def build(
    target: str,
    draft: str,
    output: Path,
    *,
    capacity: int | None,
    overwrite: bool,
    say: Say,
    precision: Precision = FLOAT32,
    text: Path | None = None,
) -> Built:
    """Build a bundle.

    Args:
        target: See ``prepare``.
        draft: See ``prepare``.
        output: Where the bundle goes.
        capacity: See ``prepare``.
        overwrite: Whether a bundle at ``output`` is replaced.
        say: Takes a line of progress.
        precision: See ``prepare``.
        text: See ``prepare``.

    Raises:
        UsageError: The output or the capacity cannot be.
        EngineError: ONNX Runtime is not installed.
        BundleError: A model is not supported, the pair does not fit together, or parity failed; nothing is left behind.
    """
    started = time.monotonic()
    refuse_output(output, overwrite=overwrite)
    pair = prepare(target, draft, capacity=capacity, say=say, precision=precision, text=text)
    with staged(output) as folder:
        built = {
            role: build_member(member, folder / role, pair.limits.capacity, pair.ids, say)
            for role, member in pair.members.items()
        }
        pair.tokenizer.save_pretrained(folder / TOKENIZER)
        manifest = Manifest(
            models={role: member.spec for role, member in built.items()},
            vocabulary=pair.vocabulary,
            limits=pair.limits,
            files=_hashes(folder),
            versions=pair.versions,
            parity={role: member.parity for role, member in built.items()},
            quality={role: member.quality for role, member in built.items()},
        )
        _write_manifest(manifest, folder)
    return Built(manifest, Bundle(output, manifest).size, time.monotonic() - started)


def check(bundle: Bundle, say: Say) -> None:
    """Run a bundle's parity again, against the weights that it carries.

    Raises:
        BundleError: Parity failed.
    """
    for role in ROLES:
        manifest = bundle.manifest
        check_member(role, bundle.model(role), manifest.models[role], manifest.limits.capacity, say)


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
    allowed = min(longest_text(config) for config in configs.values())
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


def _precisions(draft: str, precision: Precision) -> dict[Role, Precision]:
    if draft not in COPIES:
        return {"draft": precision, "target": precision}
    copy = dataclasses.replace(precision, quantisation=draft)
    if copy == precision:
        raise UsageError(
            f"A draft in {draft} of a target in {draft} is the target itself.",
            hint="Leave the target as it is, or name a smaller model as draft.",
        )
    return {"draft": copy, "target": precision}


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _write_manifest(manifest: Manifest, folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
    for name in manifest.files:
        # safetensors writes files that only their owner can read.
        shutil.copymode(path, folder / name)
