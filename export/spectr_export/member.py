"""Builds one model of a bundle, its weights and its graph, and checks both against the original."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch

from spectr_export.checks.parity import check_half, check_onnxruntime, check_range, check_rounded
from spectr_export.checks.quality import measure_loss, refuse_loss
from spectr_export.checks.reference import Reference
from spectr_export.checks.states import WholeModel
from spectr_export.console import Say
from spectr_export.graph.export import export_graph
from spectr_export.graph.tracing import Tracer
from spectr_export.inspection import describe_parity, describe_quality
from spectr_export.original.model import load_original, load_stored, measure_spec
from spectr_export.original.ondemand import LazyWeight
from spectr_export.storing.activations import measure_inputs
from spectr_export.storing.kept import describe_kept
from spectr_export.storing.plan import NO_INPUTS, StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.storing.quantiser import CHOOSERS
from spectr_export.storing.save import save_model
from spectr_export.text import TOKENS, Texts
from spectr_runtime.adapter.rounding import read_roundings
from spectr_runtime.bundle import Features, ModelSpec, Role
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.contract import DTYPES


@dataclasses.dataclass(frozen=True, slots=True)
class Member:
    """A model of the bundle before it is built.

    Attributes:
        role: The model's role in the bundle.
        source: Folder of the checkpoint.
        precision: How the model is to be stored.
        features: Of a target, what its draft reads of it; None if that is no head.
    """

    role: Role
    source: Path
    precision: Precision
    features: Features | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class BuiltMember:
    """A model of the bundle that was built and passed its checks.

    Attributes:
        spec: Its sizes.
        parity: Largest difference of its logits to PyTorch eager, by stage.
        quality: What its precision costs; empty if the checkpoint's weights are stored exactly and in float32.
    """

    spec: ModelSpec
    parity: Mapping[str, float]
    quality: Mapping[str, float]


def build_member(member: Member, folder: Path, capacity: int, texts: Texts, tracer: Tracer, say: Say) -> BuiltMember:
    """Write a model's weights and graph and check both.

    Args:
        member: The model to build.
        folder: The folder to write to.
        capacity: Longest text of the bundle.
        texts: The texts to measure and to round by.
        tracer: Traces the model.
        say: Takes a line of progress.

    Raises:
        BundleError: The model cannot be exported, or differs from the original by more than its precision may.
    """
    role, precision = member.role, member.precision
    stored = load_stored(member.source)
    plan = StoragePlan.of(stored.model, precision, stored.weights)
    precision = plan.precision
    how: Any = {"dtype": precision.dtype, "quantisation": precision.quantisation, "features": member.features}
    spec = dataclasses.replace(measure_spec(stored.model), **how)
    parameters = sum(parameter.numel() for parameter in stored.model.parameters())
    say(f"{role}: {spec.architecture}, {parameters / 1e6:.1f} M parameters, {spec.layers} layers, {precision}")
    for line in describe_kept(plan.matrices, stored.weights, precision.dtype) if precision.keeps else []:
        say(f"{role}: {line}")
    inputs = NO_INPUTS
    if precision.quantisation == "fp8":
        inputs = measure_inputs(stored.model, plan.matrices, texts.measured)
    elif plan.divided:
        inputs = measure_inputs(stored.model, plan.divided, texts.read[:TOKENS])
    read = save_model(stored.model, folder, plan, stored.weights, inputs, texts.read)
    if precision.quantisation in CHOOSERS and (alone := _rounded_alone(plan, read)):
        say(f"{role}: {alone} are rounded by their weights alone")
    export_graph(folder, spec, tracer)
    reference = _reference(folder, spec, rounding=False)
    parity = check_onnxruntime(reference, folder, spec, capacity, name=role)
    say(f"{role}: {describe_parity(parity)}")
    quality: dict[str, float] = {}
    if not _is_exact(stored.weights, precision):
        quality |= measure_loss(stored.model, load_original(folder), texts.measured)
        if role == "target":
            refuse_loss(quality["lost"], precision)
    quality |= _check_arithmetic(reference, folder, spec, capacity, role)
    if quality:
        say(f"{role}: in {precision}, {describe_quality(quality)}")
    return BuiltMember(spec, parity, quality)


def _rounded_alone(plan: StoragePlan, read: Collection[str]) -> str:
    """Return in words which weights are rounded to int4 without regard to what they multiply; empty if none are."""
    kinds = {"stacks of experts": len(plan.stacks), "matrices that no text reached": len(plan.matrices) - len(read)}
    return " and ".join(f"{count} {kind}" for kind, count in kinds.items() if count)


def check_member(role: Role, folder: Path, spec: ModelSpec, capacity: int, say: Say) -> None:
    """Check a model again that was built before, against the weights that it carries.

    Raises:
        BundleError: The logits differ by more than the model's precision may cause.
    """
    reference = _reference(folder, spec, rounding=False)
    say(f"{role}: {describe_parity(check_onnxruntime(reference, folder, spec, capacity, name=role))}")
    if found := _check_arithmetic(reference, folder, spec, capacity, role):
        say(f"{role}: in {Precision(spec.dtype, spec.quantisation)}, {describe_quality(found)}")


def _reference(folder: Path, spec: ModelSpec, *, rounding: bool = True) -> Reference:
    model = load_original(folder, rounding=rounding)
    return Reference(model if spec.features is None else WholeModel(model, spec.features))


def _check_arithmetic(
    reference: Reference, folder: Path, spec: ModelSpec, capacity: int, role: Role
) -> Mapping[str, float]:
    """Check what a model rounds while it computes: inputs of products in fp8 or int8, or all numbers in half precision.

    What half precision rounds is not checked in quantised models, whose weights lose more than their arithmetic; the
    range of float16 is.
    """
    found: Mapping[str, float] = {}
    if read_roundings(folder / WEIGHTS):
        name = f"{role} in {spec.quantisation}"
        found = check_rounded(_reference(folder, spec), folder, spec, capacity, name=name)
    if spec.dtype != "float32" and spec.quantisation == "none":
        return check_half(reference, folder, spec, capacity, name=f"{role} in {spec.dtype}")
    if spec.dtype == "float16" and spec.quantisation != "fp8":
        check_range(reference, folder, spec, capacity, name=f"{role} in {spec.quantisation} and float16")
    return found


def _is_exact(weights: Mapping[str, LazyWeight], precision: Precision) -> bool:
    """Return whether a precision can represent every weight of a checkpoint exactly."""
    wanted = DTYPES[precision.dtype]
    found = {weight.dtype for weight in weights.values() if weight.dtype.is_floating_point}
    return precision.quantisation == "none" and all(torch.promote_types(dtype, wanted) == wanted for dtype in found)
