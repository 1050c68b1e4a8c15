"""What goes into the decoder and what comes out: requests, completions, failures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from spectr_runtime.errors import RequestError
from spectr_runtime.rows.ranges import LOGIT_BIAS, RANGES

FinishReason = Literal["stop", "length"]


@dataclasses.dataclass(frozen=True, slots=True)
class SamplingParams:
    """How one row is sampled. The draft is processed exactly like the target.

    Attributes:
        max_tokens: Most tokens to write, at least 1.
        temperature: Divides the logits, 1e-5 to 1000; 0 takes the most probable token.
        top_k: Keep the k most probable tokens; 0 keeps all. Ties at the border are broken by the lower token id.
        top_p: Keep the smallest set of most probable tokens that holds this probability, in (0, 1].
        min_p: Drop tokens less probable than this share of the most probable one, 0 to 1.
        presence_penalty: Taken from the logit of every token that was written, -2 to 2.
        frequency_penalty: Taken from a token's logit once for every time that it was written, -2 to 2.
        repetition_penalty: Divides the logits of tokens of prompt and completion, multiplies negative ones; 1 does
            nothing.
        logit_bias: Tokens and what is added to their logits, -100 to 100.
        min_tokens: Tokens to write before an end token, a stop token or a stop text may come.
        stop: Texts that end the completion; they are not part of its text. Special tokens of the tokenizer, which no
            text shows, may stand among them.
        stop_token_ids: Tokens that end the completion beside the model's own end tokens.
        ignore_eos: Go on past the model's end tokens.
        seed: Replaces the run seed for this row, in [0, 2**63).
        logprobs: Report the log-probability of every written token and of this many most probable ones, 0 to 20;
            None reports none.

    Raises:
        RequestError: A value is outside its range.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            _require(name, value, allowed.holds(value), allowed.words)
        for token, bias in self.logit_bias:
            _require(f"logit_bias of token {token}", bias, LOGIT_BIAS.holds(bias), LOGIT_BIAS.words)
        _require("min_tokens", self.min_tokens, 0 <= self.min_tokens <= self.max_tokens, "0 to max_tokens")
        _require("stop", self.stop, isinstance(self.stop, tuple) and all(self.stop), "a tuple of non-empty texts")

    @property
    def adjusts(self) -> bool:
        """Whether the logits are changed before they are scaled and truncated."""
        penalties = self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1
        return bool(penalties or self.logit_bias or self.min_tokens)

    @property
    def truncates(self) -> bool:
        """Whether improbable tokens are dropped."""
        return bool(self.top_k or self.top_p < 1 or self.min_p)


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
        choice: Which of several completions of the same id this is; each has noise of its own.
    """

    id: str
    prompt: Prompt
    params: SamplingParams = dataclasses.field(default_factory=SamplingParams)
    choice: int = 0


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
class TokenLogprob:
    """A token and how probable the target holds it.

    Attributes:
        token_id: The token.
        text: What it looks like behind another token; ``\ufffd`` stands for bytes that are no whole character.
        data: Its bytes.
        logprob: Natural logarithm of its probability under the target's logits as they are, before penalties,
            temperature and truncation.
        top: The most probable tokens at its place, in descending order; they hold none themselves.
    """

    token_id: int
    text: str
    data: bytes
    logprob: float
    top: tuple[TokenLogprob, ...] = ()


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
        choice: The request's choice.
        logprobs: One entry per token of ``token_ids``; None unless asked for.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    usage: Usage
    speculation: SpeculationStats
    choice: int = 0
    logprobs: tuple[TokenLogprob, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True)
class Failure:
    """A row that could not be decoded; the others went on."""

    id: str
    error: RequestError
    choice: int = 0


Outcome = Completion | Failure
