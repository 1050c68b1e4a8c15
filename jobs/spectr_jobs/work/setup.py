"""The setup of a session: how rows are decoded. It may differ between sessions; the manifest may not."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal, Protocol

from spectr_runtime import Bundle
from spectr_runtime.errors import RequestError, UsageError
from spectr_runtime.rows.request import Outcome, Prompt, Request, SamplingParams
from spectr_runtime.rows.score import Score, Written
from spectr_runtime.speculation.plan import AUTO, PLAIN, Plan, PlanChoice
from spectr_runtime.speculation.timing import Timing

if TYPE_CHECKING:
    from spectr_runtime.planning.footprint import Footprint

Backend = Literal["onnxruntime", "torch", "tensorrt", "tensorrt-rtx"]


class RunDecoder(Protocol):
    """What a run needs of the decoder."""

    timing: Timing

    @property
    def rounds(self) -> Mapping[Plan, int]:
        """Rounds of each plan so far."""
        ...

    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Decode; pulls requests lazily and yields rows as they finish, in any order."""
        ...


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """How a session decodes.

    Attributes:
        plan: Rule, drafts and length, or ``auto``.
        batch_size: Rows decoded together.
        backend: What runs the models.
        device: Where they run.
    """

    plan: PlanChoice
    batch_size: int
    backend: Backend
    device: str

    def __str__(self) -> str:
        return f"{self.plan}, batch {self.batch_size}, {self.backend} on {self.device}"

    def to_json(self) -> dict[str, Any]:
        """The setup as JSON values; ``plan`` is for reading, and a fixed plan's fields after it for reading back."""
        return {
            "plan": str(self.plan),
            **({} if self.plan == AUTO else dataclasses.asdict(self.plan)),
            "batch_size": self.batch_size,
            "backend": self.backend,
            "device": self.device,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Setup:
        """Read what ``to_json`` wrote."""
        plan: PlanChoice = AUTO if value["plan"] == AUTO else Plan(value["rule"], value["drafts"], value["length"])
        return Setup(plan, value["batch_size"], value["backend"], value["device"])


def open_decoder(bundle: Bundle, setup: Setup, *, seed: int) -> RunDecoder:
    """Load the models of a bundle. Tests put another decoder in this place."""
    from spectr_runtime import Decoder  # loads torch

    return Decoder(
        bundle,
        plan=setup.plan,
        batch_size=setup.batch_size,
        seed=seed,
        backend=setup.backend,
        device=setup.device,
    )


class Encoder(Protocol):
    """What a dry run needs of the tokenizer."""

    def encode(self, prompt: Prompt) -> tuple[int, ...]:
        """Token ids of a prompt."""
        ...


def open_tokenizer(bundle: Bundle) -> Encoder:
    """Load the tokenizer of a bundle. Tests put another one in this place."""
    from spectr_runtime.rows.tokenizer import Tokenizer  # loads transformers

    return Tokenizer(bundle.tokenizer, bundle.manifest.vocabulary.size)


def footprint(bundle: Bundle, setup: Setup) -> Footprint:
    """What the session takes of the memory."""
    from spectr_runtime.planning.footprint import Footprint  # loads torch

    return Footprint.of(bundle, setup.plan)


def free_memory(device: str) -> int | None:
    """Bytes that are free on a device; nothing where the system does not tell."""
    from spectr_runtime.planning.footprint import free_memory as measure  # loads torch

    return measure(device)


class RunScorer(Protocol):
    """What an audit needs of the scorer."""

    tolerance: float

    def score(self, completions: Iterable[Written]) -> Iterator[Score]:
        """Score completions, in their order."""
        ...


def open_scorer(bundle: Bundle, setup: Setup) -> RunScorer:
    """Load the models of a bundle for an audit. Tests put another scorer in this place."""
    from spectr_runtime.scorer import Scorer  # loads torch

    return Scorer(bundle, backend=setup.backend, device=setup.device, batch_size=setup.batch_size, plan=setup.plan)


def make_plan(plan: str | None, rule: str | None, drafts: int | None, length: int | None) -> PlanChoice:
    """The plan that the command's options name.

    Raises:
        UsageError: They exclude each other, or the rule does not go with K and L.
    """
    options = {"--rule": rule, "--drafts": drafts, "--length": length}
    given = [name for name, value in options.items() if value is not None]
    if plan is not None and given:
        raise UsageError(f"--plan {plan} and {', '.join(given)} exclude each other.", hint="Leave one of them out.")
    if given:
        return Plan(rule or "kseq", 4 if drafts is None else drafts, 4 if length is None else length)
    return Plan.plain() if plan == PLAIN else AUTO


def make_defaults(max_tokens: int, temperature: float, top_p: float, top_k: int) -> SamplingParams:
    """Sampling parameters of records that do not say.

    Raises:
        UsageError: A value is out of range.
    """
    try:
        return SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k)
    except RequestError as error:
        option = (error.param or "").replace("_", "-")
        raise UsageError(f"--{option}: {error.message}") from error
