"""The dry run of a build: it checks the models and estimates the bundle's size and the build's memory and time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from spectr_export.console import Say, page
from spectr_export.inspection import NO_DRAFT
from spectr_export.member import Member
from spectr_export.original.conversion import read_checkpoint
from spectr_export.original.model import outline
from spectr_export.original.scratch import open_scratch
from spectr_export.preparation import BuildOptions, Prepared, prepare
from spectr_export.storing.plan import NO_WEIGHTS, StoragePlan
from spectr_export.storing.precision import FLOAT32, Precision
from spectr_export.storing.quantiser import CHOOSERS
from spectr_export.text import TOKENS_READ
from spectr_runtime.bundle import Role
from spectr_runtime.bundle.stacks import experts_per_product

# Fitted to builds that benchmarks/building.py measures on two idle cores. Importing the libraries and
# preparing the pair takes START_SECONDS. A trace hardly grows with a model's layers, because few of them are traced,
# and a quantised copy has the trace of its target; the simplification of the graph grows with the layers. Writing the
# weights and comparing the graph with the original grows with the weights. So does reading the text with the original
# and the stored model, and the check of half precision, fp8 or int8 reads all texts of the comparison once more.
START_SECONDS = 9
SECONDS_PER_TRACE = 6
SECONDS_PER_LAYER = 0.2
# All layers of a target whose draft is a head are traced: 29 more of a tiny Llama took 21 s.
SECONDS_PER_TRACED_LAYER = 0.7
SECONDS_PER_BILLION_PARAMETERS = 68
SECONDS_PER_BILLION_PARAMETERS_ON_TEXT = 60
SECONDS_PER_BILLION_PARAMETERS_ROUNDED = 90
# Rounding to int4 while the model reads a text, for the parameters that are rounded.
SECONDS_PER_BILLION_FITTED = 300
# Bounds of the memory that a build allocates, which benchmarks/streaming.py checks: SHARDS times the largest file of
# the checkpoint or, if that is less, MATRICES times the largest matrix in float32, which is held as it is read, widened
# and transposed; and REST bytes for everything else. Rounding to int4 holds two square matrices of the most inputs that
# a layer has, and READ numbers for each of these inputs and each token that is read.
SHARDS, MATRICES, REST, READ = 1.3, 3, 2e9, 4
WEIGHT_SUFFIXES = (".safetensors", ".gguf")


@dataclasses.dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate of one model of the bundle, from its configuration and the sizes of its files.

    Attributes:
        role: The model's role in the bundle.
        architecture: The ``model_type`` of its configuration.
        precision: How it is stored.
        parameters: Number of parameters, tied ones counted once.
        layers: Layers of the decoder.
        size: Bytes of its weights in the bundle.
        largest_file: Bytes of the largest file of the checkpoint.
        largest_matrix: Bytes in float32 of the largest matrix that is worked on. Experts with which a graph multiplies
            at once count as one matrix.
        rounded: Number of parameters that are rounded to int4 by what they multiply.
        most_inputs: Most inputs of a layer whose matrix is rounded in this way.
    """

    role: Role
    architecture: str
    precision: Precision
    parameters: int
    layers: int
    size: int
    largest_file: int
    largest_matrix: int
    rounded: int
    most_inputs: int

    @staticmethod
    def of(member: Member, config: Any) -> Estimate:
        """Make the estimate from a model without weights."""
        model = outline(config)
        weights = read_checkpoint(member.source, model) if member.precision.keeps else NO_WEIGHTS
        plan = StoragePlan.of(model, member.precision, weights)
        read = plan.matrices if member.precision.quantisation in CHOOSERS else {}
        shapes = [model.get_parameter(name).shape for name in read]
        files = [path.stat().st_size for path in member.source.iterdir() if path.suffix in WEIGHT_SUFFIXES]
        return Estimate(
            role=member.role,
            architecture=config.model_type,
            precision=plan.precision,
            parameters=sum(weight.numel() for weight in model.parameters()),
            layers=config.num_hidden_layers,
            size=sum(layout.length for layout in plan.layouts.values()),
            largest_file=max(files),
            largest_matrix=4 * max(_numbers_at_once(weight.shape) for weight in model.parameters()),
            rounded=sum(map(math.prod, shapes)),
            most_inputs=max((shape[0 if plan.order.layers else 1] for shape in shapes), default=0),
        )

    @property
    def seconds(self) -> float:
        """Seconds that it takes to write and check the model and to simplify its graph, without its trace."""
        each = SECONDS_PER_BILLION_PARAMETERS
        if self.precision != FLOAT32:
            each += SECONDS_PER_BILLION_PARAMETERS_ON_TEXT
        if self.precision.quantisation in ("none", "int8", "fp8") and self.precision != FLOAT32:
            each += SECONDS_PER_BILLION_PARAMETERS_ROUNDED
        fitted = SECONDS_PER_BILLION_FITTED * self.rounded
        return SECONDS_PER_LAYER * self.layers + (each * self.parameters + fitted) / 1e9

    @property
    def memory(self) -> float:
        """Bytes that the build allocates; files mapped into memory are not counted, as the system may drop them."""
        reading = 4 * self.most_inputs * (2 * self.most_inputs + READ * TOKENS_READ)
        return min(SHARDS * self.largest_file, MATRICES * self.largest_matrix) + reading + REST


def rehearse(options: BuildOptions, say: Say) -> str:
    """Check the models of a build and estimate what it takes; ``prepare`` describes the arguments and the errors.

    Returns:
        A page for a person.
    """
    with open_scratch() as scratch:
        pair = prepare(options, scratch, say)
        return render(pair, [Estimate.of(member, pair.configs[role]) for role, member in pair.members.items()])


def render(pair: Prepared, models: list[Estimate]) -> str:
    """Return the page of a dry run."""
    traces = len({(str(pair.members[model.role].source), model.precision.dtype) for model in models})
    seconds = START_SECONDS + SECONDS_PER_TRACE * traces + sum(model.seconds for model in models)
    size = sum(model.size for model in models)
    if pair.head is not None:
        traced = sum(model.layers for model in models)
        seconds += SECONDS_PER_TRACE + SECONDS_PER_TRACED_LAYER * traced
        seconds += SECONDS_PER_BILLION_PARAMETERS * pair.head.parameters / 1e9
        size += pair.head.size
    lines = [
        *((model.role, _describe(model)) for model in sorted(models, key=lambda model: model.role, reverse=True)),
        *(() if pair.has_draft else (("draft", NO_DRAFT),)),
        *(() if pair.head is None else (("draft", f"{pair.head}: {pair.head.size / 1e6:,.1f} MB"),)),
        ("vocabulary", f"{pair.vocabulary.size} tokens"),
        ("limits", f"{pair.limits.capacity} tokens per text"),
        ("disk", f"{size / 1e6:,.1f} MB and a few for graphs and tokenizer"),
        ("memory", f"at most {max(model.memory for model in models) / 1e9:.1f} GB, and mapped files besides"),
        ("time", f"about {_rough_duration(seconds)} on two cores"),
    ]
    return f"dry run, nothing is written\n{page(lines)}"


def _describe(model: Estimate) -> str:
    return (
        f"{model.architecture}, {model.parameters / 1e6:,.1f} M parameters, {model.layers} layers, "
        f"{model.precision}: {model.size / 1e6:,.1f} MB"
    )


def _numbers_at_once(shape: Sequence[int]) -> int:
    """Return how many numbers of a weight are worked on at once: of stacked experts, those of one product."""
    return math.prod(shape) if len(shape) < 3 else experts_per_product(shape) * math.prod(shape[1:])


def _rough_duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"
