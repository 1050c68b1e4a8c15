"""The setup of a session: how rows are decoded. It may differ between the sessions of a run; the manifest may not."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from spectr_runtime.backends import Backend
from spectr_runtime.errors import RequestError, UsageError
from spectr_runtime.rows.request import SamplingParams
from spectr_runtime.speculation.plan import AUTO, PLAIN, Plan, PlanChoice

RULE, DRAFTS, LENGTH = "kseq", 4, 4  # defaults of a fixed plan, if at least one of its options is given


@dataclasses.dataclass(frozen=True, slots=True)
class Setup:
    """How a session decodes.

    Attributes:
        plan: A fixed plan, or ``auto``.
        batch_size: Rows decoded together.
        backend: Name of the library that runs the models.
        device: Device of the models, as torch names it.
    """

    plan: PlanChoice
    batch_size: int
    backend: Backend
    device: str

    def __str__(self) -> str:
        return f"{self.plan}, batch {self.batch_size}, {self.backend} on {self.device}"

    def to_json(self) -> dict[str, Any]:
        """Return the setup as JSON values. ``plan`` is for people; ``from_json`` reads the fields of a fixed plan."""
        return {
            "plan": str(self.plan),
            **({} if self.plan == AUTO else dataclasses.asdict(self.plan)),
            "batch_size": self.batch_size,
            "backend": self.backend,
            "device": self.device,
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Setup:
        """Return the setup that ``to_json`` turned into JSON values."""
        plan: PlanChoice = AUTO if value["plan"] == AUTO else Plan(value["rule"], value["drafts"], value["length"])
        return Setup(plan, value["batch_size"], value["backend"], value["device"])


def choose_plan(plan: str | None, rule: str | None, drafts: int | None, length: int | None) -> PlanChoice:
    """Return the plan that the options of a command choose.

    Args:
        plan: The value of ``--plan``.
        rule: The value of ``--rule``.
        drafts: The value of ``--drafts``, K.
        length: The value of ``--length``, L.

    Raises:
        UsageError: The options exclude each other, or the rule does not allow K or L.
    """
    options = {"--rule": rule, "--drafts": drafts, "--length": length}
    given = [name for name, value in options.items() if value is not None]
    if plan is not None and given:
        raise UsageError(f"--plan {plan} and {', '.join(given)} exclude each other.", hint="Leave one of them out.")
    if given:
        return Plan(rule or RULE, DRAFTS if drafts is None else drafts, LENGTH if length is None else length)
    return Plan.plain() if plan == PLAIN else AUTO


def sampling_defaults(max_tokens: int, temperature: float, top_p: float, top_k: int) -> SamplingParams:
    """Return the sampling parameters of records that do not set their own.

    Raises:
        UsageError: A value is out of range.
    """
    try:
        return SamplingParams(max_tokens=max_tokens, temperature=temperature, top_p=top_p, top_k=top_k)
    except RequestError as error:
        option = (error.param or "").replace("_", "-")
        raise UsageError(f"--{option}: {error.message}") from error
