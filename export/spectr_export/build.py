"""Builds a bundle from a target and, if there is one, its draft, and checks a bundle again that was built before."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from functools import partial
from pathlib import Path

from spectr_export.checks.acceptance import measure_acceptance, measure_head
from spectr_export.console import Say
from spectr_export.graph.tracing import Tracer
from spectr_export.heads.member import build_head, check_head, load_plain_head
from spectr_export.inspection import NO_DRAFT, describe_acceptance
from spectr_export.member import build_member, check_member
from spectr_export.original.model import load_original
from spectr_export.original.scratch import open_scratch
from spectr_export.original.tokens.chosen import write_chosen
from spectr_export.preparation import BuildOptions, Prepared, prepare
from spectr_export.staging import refuse_output, staged
from spectr_runtime.bundle import Bundle, Manifest
from spectr_runtime.bundle.layout import MANIFEST, TOKENIZER
from spectr_runtime.files import file_sha256


@dataclasses.dataclass(frozen=True, slots=True)
class Built:
    """The result of a build.

    Attributes:
        manifest: The manifest of the new bundle.
        size: Bytes of all of the bundle's files.
        seconds: Duration of the build.
    """

    manifest: Manifest
    size: int
    seconds: float


def build(options: BuildOptions, output: Path, *, overwrite: bool = False, say: Say) -> Built:
    """Build a bundle, whose models are compared with the originals before it appears.

    Args:
        options: The options of the build.
        output: The folder to write.
        overwrite: Whether a bundle at ``output`` is replaced.
        say: Takes a line of progress.

    Raises:
        UsageError: The output cannot be written to, the capacity is out of range, or an option is wrong.
        EngineError: ONNX Runtime is not installed.
        BundleError: A model is not supported, the pair does not fit together, or a check failed; no files are left
            behind.
    """
    started = time.monotonic()
    refuse_output(output, overwrite=overwrite)
    with open_scratch() as scratch:
        pair = prepare(options, scratch, say)
        if not pair.has_draft:
            say(f"draft: {NO_DRAFT}")
        with staged(output) as folder:
            manifest = _build_into(folder, pair, say)
    return Built(manifest, Bundle(output, manifest).size, time.monotonic() - started)


def _build_into(folder: Path, pair: Prepared, say: Say) -> Manifest:
    """Write all files of a bundle into a folder, the manifest last."""
    tracer = Tracer()
    built = {
        role: build_member(member, folder / role, pair.limits.capacity, pair.texts, tracer, say)
        for role, member in pair.members.items()
    }
    if pair.head is not None:
        built["draft"] = build_head(pair.head, folder / "draft", pair.limits.capacity, say)
    quality = {role: dict(member.quality) for role, member in built.items()}
    if pair.has_draft:
        quality["draft"]["acceptance"] = _measure_draft(folder, pair)
        accepted = describe_acceptance(quality["draft"]["acceptance"], head=pair.head is not None)
        say(f"draft: {accepted}")
    pair.tokenizer.save_pretrained(folder / TOKENIZER)
    manifest = Manifest(
        models={role: member.spec for role, member in built.items()},
        vocabulary=pair.vocabulary,
        limits=pair.limits,
        sampling=pair.sampling,
        files=_hashes(folder),
        versions=pair.versions,
        parity={role: member.parity for role, member in built.items()},
        quality=quality,
        overrides=pair.overrides,
    )
    _write_manifest(manifest, folder)
    return manifest


def _measure_draft(folder: Path, pair: Prepared) -> float:
    """Write which tokens a draft scores, and return how often the target accepts one of it."""
    target, ids = load_original(folder / "target"), pair.texts.measured
    if pair.head is not None:
        head = load_plain_head(folder / "draft")
        return measure_head(target, head, ids, pair.head.checkpoint.tokens_N)
    write_chosen(pair.chosen_N, folder / "draft")
    return measure_acceptance(target, load_original(folder / "draft"), ids, pair.chosen_N, pair.vocabulary.substitute)


def check(bundle: Bundle, say: Say) -> None:
    """Compare the graphs of a bundle again with transformers' models on the weights that the bundle carries.

    Raises:
        BundleError: The logits of a graph differ.
    """
    manifest = bundle.manifest
    for role in manifest.roles:
        again = check_head if manifest.models[role].head else partial(check_member, role)
        again(bundle.model(role), manifest.models[role], manifest.limits.capacity, say)


def _hashes(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}


def _write_manifest(manifest: Manifest, folder: Path) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps(manifest.to_json(), indent=2) + "\n", encoding="utf-8")
    for name in manifest.files:
        # safetensors writes files that only their owner can read, so every file takes the manifest's mode.
        shutil.copymode(path, folder / name)
