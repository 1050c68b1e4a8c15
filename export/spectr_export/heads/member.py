"""Builds the head of a bundle, its weights and its graph, and checks the graph against the head in PyTorch."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spectr_export.checks.parity import check_half, check_onnxruntime
from spectr_export.checks.reference import Reference
from spectr_export.checks.states import WholeHead
from spectr_export.console import Say
from spectr_export.graph.export import export_graph
from spectr_export.heads.checkpoint import HeadCheckpoint
from spectr_export.heads.fit import EMBEDDINGS, fit_head, shapes
from spectr_export.inspection import describe_parity, describe_quality
from spectr_export.member import BuiltMember, Member
from spectr_export.original.configuration.reach import longest_text
from spectr_export.original.model import load_stored
from spectr_export.original.tokens.chosen import write_chosen
from spectr_export.weights import Layout, writing
from spectr_runtime.adapter.eagle3 import Eagle3Head, Settings, load_head
from spectr_runtime.bundle import Features, Head, ModelSpec
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.contract import DTYPES

NAME = "draft"


@dataclasses.dataclass(frozen=True, slots=True)
class HeadMember:
    """The draft of a bundle that is a head, before it is built.

    Attributes:
        checkpoint: The head as it was published.
        settings: What it does on this target.
        target: Folder of the target's checkpoint, whose embeddings it takes if it has none.
        dtype: Type of its weights, its cache and its arithmetic; it is not quantised.
    """

    checkpoint: HeadCheckpoint
    settings: Settings
    target: Path
    dtype: str

    @staticmethod
    def of(checkpoint: HeadCheckpoint, target: Member, config: Any) -> HeadMember:
        """Bind a head to its target.

        Args:
            checkpoint: The head.
            target: The target before it is built.
            config: transformers' configuration of the target.

        Raises:
            BundleError: The head does not fit the target.
        """
        return HeadMember(checkpoint, fit_head(checkpoint, config), target.source, target.precision.dtype)

    @property
    def features(self) -> Features:
        """What the target gives out for it."""
        return Features(self.settings.layers, self.settings.features)

    @property
    def spec(self) -> ModelSpec:
        """The sizes of the head."""
        config = self.checkpoint.config
        return ModelSpec(
            architecture=config.model_type,
            layers=1,
            kv_heads=config.num_key_value_heads,
            head_size=config.head_dim,
            vocabulary=self.settings.logits,
            max_positions=longest_text(config),
            dtype=self.dtype,
            head=Head("eagle3", self.settings.features, config.hidden_size),
        )

    @property
    def parameters(self) -> int:
        """Number of its parameters, the embeddings that it takes from the target among them."""
        return sum(map(math.prod, shapes(self.checkpoint.config, self.settings).values()))

    @property
    def size(self) -> int:
        """Bytes of its weights in the bundle."""
        return self.parameters * DTYPES[self.dtype].itemsize

    def __str__(self) -> str:
        layers = ", ".join(map(str, self.settings.layers))
        return (
            f"a head of EAGLE-3 on layers {layers} of the target, {self.parameters / 1e6:,.1f} M parameters, "
            f"{self.settings.logits} logits, {self.dtype}"
        )


def build_head(member: HeadMember, folder: Path, capacity: int, say: Say) -> BuiltMember:
    """Write a head's weights and graph and check the graph.

    Args:
        member: The head to build.
        folder: The folder to write to.
        capacity: Longest text of the bundle.
        say: Takes a line of progress.

    Raises:
        BundleError: The head cannot be exported, or its graph differs from the head in PyTorch.
    """
    spec = member.spec
    say(f"{NAME}: {member}")
    weights = dict(member.checkpoint.weights)
    if EMBEDDINGS not in weights:
        weights[EMBEDDINGS] = _embeddings(member.target)
    _save(member, weights, folder)
    export_graph(folder, spec)
    parity, quality = _check(folder, spec, capacity)
    say(f"{NAME}: {describe_parity(parity)}")
    return BuiltMember(spec, parity, quality)


def check_head(folder: Path, spec: ModelSpec, capacity: int, say: Say) -> None:
    """Check a head again that was built before, against the weights that it carries.

    Raises:
        BundleError: The logits or the states differ.
    """
    parity, quality = _check(folder, spec, capacity)
    say(f"{NAME}: {describe_parity(parity)}")
    if quality:
        say(f"{NAME}: in {spec.dtype}, {describe_quality(quality)}")


def _check(folder: Path, spec: ModelSpec, capacity: int) -> tuple[Mapping[str, float], Mapping[str, float]]:
    """Return the largest differences of a head's graph, and what half precision costs."""
    assert spec.head is not None
    reference = Reference(WholeHead(load_plain_head(folder), spec.head))
    parity = check_onnxruntime(reference, folder, spec, capacity, name=NAME)
    if spec.dtype == "float32":
        return parity, {}
    return parity, check_half(reference, folder, spec, capacity, name=f"{NAME} in {spec.dtype}")


def load_plain_head(folder: Path) -> Eagle3Head:
    """Load a head of a bundle in float32, with transformers' own attention in place of the contract's."""
    head = load_head(folder, dtype="float32", device=torch.device("cpu"))
    head.model.set_attn_implementation("eager")
    return head


def _embeddings(target: Path) -> torch.Tensor:
    """Return the embeddings of a target's tokens, without what some models multiply them with."""
    original = load_stored(target)
    own = original.model.get_input_embeddings().weight
    name = next(name for name, parameter in original.model.named_parameters() if parameter is own)
    return original.weights[name].read()


def _save(member: HeadMember, weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write config.json, model.safetensors and, if the head scores chosen tokens, their names."""
    folder.mkdir(parents=True)
    config: Any = copy.deepcopy(member.checkpoint.config)
    member.settings.to_config(config)
    config.architectures, config.dtype = ["Eagle3Head"], member.dtype
    config.save_pretrained(folder)
    dtype = DTYPES[member.dtype]
    layouts = {name: Layout(dtype, tuple(tensor.shape)) for name, tensor in weights.items()}
    with writing(folder / WEIGHTS, layouts, {"format": "pt"}) as write:
        for name, tensor in weights.items():
            write(name, tensor.to(dtype))
    write_chosen(member.checkpoint.tokens_N, folder)
