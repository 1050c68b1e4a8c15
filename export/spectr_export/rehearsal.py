"""The dry run of a build: it checks the pair and estimates the bundle's size and the build's memory and time."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from spectr_export.console import Say, page
from spectr_export.member import Member
from spectr_export.original.model import outline
from spectr_export.preparation import BuildOptions, Prepared, prepare
from spectr_export.storing.plan import StoragePlan
from spectr_export.storing.precision import Precision
from spectr_export.text import TOKENS_READ
from spectr_runtime.bundle import Role
from spectr_runtime.bundle.stacks import experts_per_product

# Measured with benchmarks/graph.py and benchmarks/streaming.py on two cores. The time to trace a model hardly grows
# with its layers, because few of them are traced; the time to read, write and check weights grows with the weights.
SECONDS_PER_MODEL = 4
SECONDS_PER_LAYER = 0.25
SECONDS_PER_BILLION_PARAMETERS = 87
# Rounding to int4 while the model reads a text, for the parameters that are rounded.
SECONDS_PER_BILLION_ROUNDED = 170
START_SECONDS = 6
# Bounds of the memory that a build allocates, which benchmarks/streaming.py checks: SHARDS times the largest file of
# the checkpoint or, if that is less, MATRICES times the largest matrix in float32, which is held as it is read, widened
# and transposed; and REST bytes for everything else. Rounding to int4 holds two square matrices of the most inputs that
# a layer has, and READ numbers for each of these inputs and each token that is read.
SHARDS, MATRICES, REST, READ = 1.3, 3, 2e9, 4


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
        plan = StoragePlan.of(model, member.precision)
        read = plan.matrices if member.precision.quantisation == "int4" else frozenset[str]()
        shapes = [model.get_parameter(name).shape for name in read]
        files = [path.stat().st_size for path in member.source.glob("*.safetensors")]
        return Estimate(
            role=member.role,
            architecture=config.model_type,
            precision=member.precision,
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
        """Seconds that it takes to trace, write and check the model."""
        weights = SECONDS_PER_BILLION_PARAMETERS * self.parameters / 1e9
        rounding = SECONDS_PER_BILLION_ROUNDED * self.rounded / 1e9
        return SECONDS_PER_MODEL + SECONDS_PER_LAYER * self.layers + weights + rounding

    @property
    def memory(self) -> float:
        """Bytes that the build allocates; files mapped into memory are not counted, as the system may drop them."""
        reading = 4 * self.most_inputs * (2 * self.most_inputs + READ * TOKENS_READ)
        return min(SHARDS * self.largest_file, MATRICES * self.largest_matrix) + reading + REST


def rehearse(options: BuildOptions, say: Say) -> str:
    """Check a pair and estimate what building it takes; ``prepare`` describes the arguments and the errors.

    Returns:
        A page for a person.
    """
    pair = prepare(options, say)
    return render(pair, [Estimate.of(member, pair.configs[role]) for role, member in pair.members.items()])


def render(pair: Prepared, models: list[Estimate]) -> str:
    """Return the page of a dry run."""
    seconds = START_SECONDS + sum(model.seconds for model in models)
    lines = [
        *((model.role, _describe(model)) for model in sorted(models, key=lambda model: model.role, reverse=True)),
        ("vocabulary", f"{pair.vocabulary.size} tokens"),
        ("limits", f"{pair.limits.capacity} tokens per text"),
        ("disk", f"{sum(model.size for model in models) / 1e6:,.1f} MB and a few for graphs and tokenizer"),
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
