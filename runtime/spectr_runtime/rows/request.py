"""Requests, which go into the decoder, and completions and failures, which come out."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

from spectr_runtime.errors import RequestError
from spectr_runtime.rows.drafting import DraftChoice, SourceStats
from spectr_runtime.rows.ranges import LOGIT_BIAS, RANGES
from spectr_runtime.rows.rounds import Watch

FinishReason = Literal["stop", "length"]


@dataclasses.dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the tokens of one row are sampled. The draft's logits are processed exactly like the target's.

    Attributes:
        max_tokens: The largest number of tokens to write; 0 writes none, for instance to score a prompt.
        temperature: The logits are divided by this number, 1e-5 to 1000; 0 takes the most probable token.
        top_k: Only the k most probable tokens are kept; 0 keeps all. Of equally probable tokens at the border, those
            with the lower ids are kept.
        top_p: Only the smallest set of most probable tokens that has this probability is kept, 0 to 1; 0 keeps the most
            probable one.
        min_p: Tokens less probable than this share of the most probable one are dropped, 0 to 1.
        presence_penalty: Subtracted from the logit of every token that was written before, -2 to 2.
        frequency_penalty: Subtracted from a token's logit once for every time that it was written before, -2 to 2.
        repetition_penalty: The logits of tokens that occur in prompt or completion are divided by this number, negative
            ones multiplied, 0.01 to 100; 1 does nothing.
        logit_bias: Token ids, each with the number that is added to its logit, -100 to 100.
        min_tokens: Number of tokens to write before an end token, a stop token or a stop text may come.
        stop: Texts that end the completion and are left out of its text. A special token of the tokenizer, which no
            text shows, ends it too if its name is among them; texts that hold such a name and more are refused.
        stop_token_ids: Tokens that end the completion, besides the model's own end tokens.
        ignore_eos: Whether to go on past the model's end tokens.
        seed: Decides the noise in place of run seed and id, together with the prompt, in [0, 2**63): equal requests of
            equal seeds are given equal texts.
        logprobs: Report the log-probability of every written token and of this many most probable ones at its position,
            0 to 20; None reports none.

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
        """Whether penalties, biases or ``min_tokens`` change the logits."""
        penalties = self.presence_penalty or self.frequency_penalty or self.repetition_penalty != 1
        return bool(penalties or self.logit_bias or self.min_tokens)

    @property
    def truncates(self) -> bool:
        """Whether top-k, top-p or min-p drop improbable tokens."""
        return bool(self.top_k or self.top_p < 1 or self.min_p)


def _require(param: str, value: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise RequestError(f"{param} is {value!r}; it must be {allowed}.", param=param)


@dataclasses.dataclass(frozen=True, slots=True)
class Chat:
    """A conversation, which the tokenizer's chat template turns into a prompt.

    Attributes:
        messages: The messages.
        arguments: Further variables of the template, such as ``enable_thinking``.
        template: Name of the template, where the tokenizer has several; None for the one that is called ``default``.
    """

    messages: tuple[Mapping[str, object], ...]
    arguments: Mapping[str, object] = dataclasses.field(default_factory=dict)
    template: str | None = None


Prompt = str | tuple[int, ...] | Chat


@dataclasses.dataclass(frozen=True, slots=True)
class Request:
    """One completion that is asked of the decoder.

    Attributes:
        id: Unique in the run, together with ``choice``. Prompt, parameters, id, choice, run seed, bundle and plan
            decide the text of the row; with a seed of its own, ``sample`` does in place of id and choice.
        prompt: Text, token ids or a conversation.
        params: How to sample.
        choice: Which of several completions of one id this is, counted from 0; each has noise of its own.
        sample: Which of several completions of one prompt this is, counted from 0.
        echo: Whether the completion's text, and its log-probabilities if they are wanted, begin with the prompt.
        draft: What the row is drafted from; None to leave that to the plan.
        watch: Called after every round that the row took part in, on the thread that decodes; None for nobody, which
            costs nothing.
    """

    id: str
    prompt: Prompt
    params: SamplingParams = dataclasses.field(default_factory=SamplingParams)
    choice: int = 0
    sample: int = 0
    echo: bool = False
    draft: DraftChoice | None = None
    watch: Watch | None = dataclasses.field(default=None, compare=False, repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """How many tokens were read and written. An end token that was written counts."""

    prompt_tokens: int
    completion_tokens: int


@dataclasses.dataclass(frozen=True, slots=True)
class SpeculationStats:
    """What speculation did for a row.

    Attributes:
        rounds: Number of rounds, which is the number of passes of the target after the prompt.
        accepted_at_depth: How many rounds accepted at least 1, 2, ... drafts; empty for plain decoding. All drafts that
            the rule accepted count, also those that were dropped because the row ended before them.
        sources: What each source of drafts did, by its name; empty for plain decoding.
    """

    rounds: int
    accepted_at_depth: tuple[int, ...]
    sources: Mapping[str, SourceStats] = dataclasses.field(default_factory=dict)

    @property
    def accepted(self) -> int:
        """Number of accepted drafts."""
        return sum(self.accepted_at_depth)


@dataclasses.dataclass(frozen=True, slots=True)
class TokenLogprob:
    """A token and its probability under the target.

    Attributes:
        token_id: The token.
        text: The text that the token adds after another one; ``\ufffd`` for bytes that are not a whole character.
        data: The bytes that the token adds to a text; none for a special token, which texts do not show.
        logprob: Natural logarithm of the probability that the target's own logits give the token, before penalties,
            temperature and truncation; None for the first token of a prompt, which follows nothing.
        top: The most probable tokens at the same position, in descending order; their own ``top`` is empty.
    """

    token_id: int
    text: str
    data: bytes
    logprob: float | None
    top: tuple[TokenLogprob, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Completion:
    """The outcome of a request that was decoded to its end.

    Attributes:
        id: The request's id.
        text: The text that the written tokens add to the prompt, without special tokens and without the stop text. If
            the request wants an echo, it comes after that of the prompt.
        token_ids: Every token written, up to the one that ended the row.
        finish_reason: ``stop`` for an end token, a stop token or a stop text, else ``length``.
        usage: Token counts.
        speculation: What speculation did for the row.
        choice: The request's choice.
        logprobs: One entry per token of ``token_ids``, after one per token of the prompt if the request wants an echo;
            None unless the request asked for them.
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
    """The outcome of a request that could not be served or decoded; the others went on."""

    id: str
    error: RequestError
    choice: int = 0


Outcome = Completion | Failure
