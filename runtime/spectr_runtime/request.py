"""What goes into the decoder and what comes out: requests, completions, failures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from spectr_runtime.errors import RequestError

FinishReason = Literal["stop", "length"]
MAX_SEED = 2**63 - 1
# Below, logits divided by it would leave float32.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-5, 1000
TEMPERATURES = "0, or from 0.00001 to 1000"


def is_temperature(value: float) -> bool:
    """Whether a temperature is 0 or in the range that logits can be divided by."""
    return value == 0 or MIN_TEMPERATURE <= value <= MAX_TEMPERATURE


@dataclasses.dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one row is sampled. The draft is processed exactly like the target.

    Attributes:
        max_tokens: Most tokens to write, at least 1.
        temperature: Divides the logits, 1e-5 to 1000; 0 takes the most probable token.
        top_k: Keep the k most probable tokens; 0 keeps all. Ties at the border are broken by the lower token id.
        top_p: Keep the smallest set of most probable tokens that holds this probability, in (0, 1].
        stop: Texts that end the completion; they are not part of its text.
        stop_token_ids: Tokens that end the completion beside the model's own end tokens.
        ignore_eos: Go on past the model's end tokens.
        seed: Replaces the run seed for this row, in [0, 2**63).

    Raises:
        RequestError: A value is outside its range.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        _require("max_tokens", self.max_tokens, self.max_tokens >= 1, "at least 1")
        _require("temperature", self.temperature, is_temperature(self.temperature), TEMPERATURES)
        _require("top_k", self.top_k, self.top_k >= 0, "0 (all tokens) or more")
        _require("top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1]")
        _require("stop", self.stop, isinstance(self.stop, tuple) and all(self.stop), "a tuple of non-empty texts")
        _require("seed", self.seed, self.seed is None or 0 <= self.seed <= MAX_SEED, "from 0 to 2**63 - 1")


def _require(param: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise RequestError(f"{param} is {value!r}; it must be {allowed}.", param=param)


@dataclasses.dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, to be written out by the tokenizer's chat template."""

    messages: tuple[Mapping[str, object], ...]


Prompt = str | tuple[int, ...] | Chat


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One row to decode.

    Attributes:
        id: Unique in the run. With the run seed (or the row's own), the bundle and the plan it decides the row's
            text.
        prompt: Text, token ids or a conversation.
        params: How to sample.
    """

    id: str
    prompt: Prompt
    params: SamplingParams = dataclasses.field(default_factory=SamplingParams)


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Tokens read and written. An end token that was written counts."""

    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class SpeculationStats:
    """What speculation did for a row.

    Attributes:
        rounds: Target passes after the prompt.
        accepted_at_depth: Rounds that accepted at least 1, 2, ... drafts; empty for plain decoding. Counted before a
            stop or the token limit cuts the round's run short.
    """

    rounds: int
    accepted_at_depth: tuple[int, ...]

    @property
    def accepted(self) -> int:
        """Accepted drafts."""
        return sum(self.accepted_at_depth)


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
    """A finished row.

    Attributes:
        id: The request's id.
        text: What was written, without special tokens and without the stop text.
        token_ids: Every token written, up to the one that ended the row.
        finish_reason: ``stop`` (end token, stop token or stop text) or ``length``.
        usage: Token counts.
        speculation: Accepted drafts.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    speculation: SpeculationStats


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A row that could not be decoded; the others went on."""

    id: str
    error: RequestError


Outcome = Completion | Failure
