"""Describes a bundle to a person. This module loads no tensor library, so that ``inspect`` answers at once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spectr_export.console import page
from spectr_export.storing.precision import Precision
from spectr_runtime.bundle import Bundle, ModelSpec
from spectr_runtime.bundle.engines import list_engines

NO_DRAFT = "none, what texts hold already is drafted"


def describe(bundle: Bundle) -> str:
    """Return a page with the models, vocabulary, limits, tools and engines of a bundle.

    Raises:
        BundleError: The record of an engine is malformed.
    """
    manifest = bundle.manifest
    lines: list[tuple[str, str]] = []
    for role, spec in sorted(manifest.models.items(), reverse=True):
        lines += [(role, _describe_model(spec)), ("", describe_parity(manifest.parity[role]))]
        if quality := manifest.quality.get(role):
            lines.append(("", describe_quality(quality, head=spec.head is not None)))
        if overrides := manifest.overrides.get(role):
            lines.append(("", f"config.json with {describe_overrides(overrides)}"))
    if not manifest.has_draft:
        lines.append(("draft", NO_DRAFT))
    ends = ", ".join(map(str, manifest.vocabulary.eos_token_ids)) or "none"
    lines.append(("vocabulary", f"{manifest.vocabulary.size} tokens, end tokens {ends}"))
    if manifest.sampling:
        lines.append(("sampling", f"{describe_sampling(manifest.sampling)}, by the target's generation_config.json"))
    lines += [
        ("limits", f"{manifest.limits.capacity} tokens per text, {manifest.limits.tokens_per_call} per call"),
        ("built with", ", ".join(f"{tool} {version}" for tool, version in manifest.versions.items())),
    ]
    engines = [
        f"{role}: {engine.key}, up to {engine.rows} rows of {engine.capacity} slots"
        for role in sorted(manifest.models, reverse=True)
        for engine in list_engines(bundle, role).values()
    ]
    lines += zip(("engines", *[""] * len(engines)), engines, strict=False)
    return f"{bundle.path}  ({bundle.size / 1e6:.1f} MB, sha256 {bundle.sha256[:16]})\n{page(lines)}"


def _describe_model(spec: ModelSpec) -> str:
    return (
        f"{spec.architecture}, {Precision(spec.dtype, spec.quantisation)}, {spec.layers} layers, "
        f"{spec.kv_heads} key/value heads of {spec.head_size}, {spec.vocabulary} logits, "
        f"made for {spec.max_positions} tokens{_describe_head(spec)}"
    )


def _describe_head(spec: ModelSpec) -> str:
    if spec.head is not None:
        return f", a head of kind {spec.head.kind} on the target"
    return f", gives out what enters layers {', '.join(map(str, spec.features.layers))}" if spec.features else ""


def describe_overrides(overrides: Mapping[str, Any]) -> str:
    """Return overridden fields as ``--config`` takes them, such as ``rope_theta=1000000.0``."""
    return ", ".join(f"{key}={json.dumps(value)}" for key, value in overrides.items())


def describe_sampling(sampling: Mapping[str, float]) -> str:
    """Return sampling parameters in words, such as ``temperature 0.7, top_k 20``."""
    return ", ".join(f"{name} {value:g}" for name, value in sampling.items())


def describe_parity(parity: Mapping[str, float]) -> str:
    """Return the largest difference of the logits to PyTorch eager, over all stages and for each stage."""
    stages = ", ".join(f"{stage} {difference:.1e}" for stage, difference in parity.items())
    return f"logits within {max(parity.values()):.1e} of transformers ({stages})"


def describe_quality(quality: Mapping[str, float], *, head: bool = False) -> str:
    """Return what a model's precision costs, and how often a draft or a head is accepted, as far as it was measured."""
    parts = []
    if "lost" in quality:
        parts.append(f"{quality['lost']:+.4f} nats per token to the checkpoint's {quality['original']:.3f}")
    if "half" in quality:
        parts.append(f"preferred tokens within {quality['half']:.2g} of the best logit")
    if "rounded" in quality:
        parts.append(f"logits within {quality['rounded']:.2g} of their spread of transformers, rounded alike")
    if "acceptance" in quality:
        parts.append(describe_acceptance(quality["acceptance"], head=head))
    return ", ".join(parts)


def describe_acceptance(acceptance: float, *, head: bool = False) -> str:
    """Return how often the target accepts a token of its draft, or the first one of a head."""
    return f"{acceptance:.1%} of its {'first ' if head else ''}tokens accepted at temperature 1"
