"""What a record asks for, apart from its prompts: its sampling fields, read as the decoder takes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from spectr_jobs.records import fields
from spectr_jobs.records.fields import NO_SEED, SAMPLING, UNSUPPORTED
from spectr_jobs.records.names import OTHERS
from spectr_runtime.rows.drafting import DraftChoice
from spectr_runtime.rows.ranges import RANGES
from spectr_runtime.rows.request import SamplingParams


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What a record asks for, apart from its prompts.

    Attributes:
        params: Sampling parameters of its completions.
        n: Number of completions per prompt.
        echo: Whether the text of a completion, and its log-probabilities, begin with its prompt.
        token_ids: Whether the row contains the token ids of the completions.
        draft: What the completions are drafted from; None to leave that to the run's plan.
    """

    params: SamplingParams
    n: int = 1
    echo: bool = False
    token_ids: bool = True
    draft: DraftChoice | None = None


def read_wanted(record: Mapping[str, object], defaults: SamplingParams) -> Wanted:
    """Read the sampling fields of a record. A field that is absent or null has its default value.

    Args:
        record: The fields of the record.
        defaults: Sampling parameters of records that do not set their own.

    Raises:
        RequestError: A field has the wrong type, is out of range, or asks for something that is not supported.
    """
    given: dict[str, Any] = {}
    for name, value in record.items():
        if name in UNSUPPORTED:
            _refuse_unsupported(name, value, UNSUPPORTED[name])
        elif name in SAMPLING and value is not None:
            fields.require(name, value, SAMPLING[name])
            given[name] = value
    n = given.pop("n", 1)
    if given.pop("best_of", n) != n:
        raise fields.refusal("best_of", record["best_of"], f"{n}, as n says: every completion is returned")
    echo, token_ids = given.pop("echo", False), given.pop("return_token_ids", True)
    draft = _draft(given.pop("draft", None))
    return Wanted(dataclasses.replace(defaults, **_as_params(given, defaults)), n, echo, token_ids, draft)


def _draft(asked: Any) -> DraftChoice | None:
    """Return what is asked to be drafted from: nothing with false, one source with its name."""
    if asked is None:
        return None
    return DraftChoice(asked["source"], asked.get("length")) if isinstance(asked, dict) else DraftChoice(asked or None)


def _refuse_unsupported(name: str, value: object, idle: tuple[object, ...]) -> None:
    if value is None or any(_same(value, other) for other in idle):
        return
    allowed = " or ".join(fields.shown(other) for other in (*idle, None))
    advice = f"use {OTHERS[name]}" if name in OTHERS else "spectr does not honour this field"
    raise fields.refusal(name, value, f"{allowed} ({advice})", "unsupported_parameter")


def _same(value: object, other: object) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _as_params(given: Mapping[str, Any], defaults: SamplingParams) -> dict[str, Any]:
    params = dict(given)
    limit = params.pop("max_completion_tokens", None)
    if limit is not None and params.setdefault("max_tokens", limit) != limit:
        raise fields.refusal(
            "max_completion_tokens",
            limit,
            f"{fields.shown(given['max_tokens'])}, as max_tokens says, or one of the two",
        )
    most = params.get("max_tokens", defaults.max_tokens)
    if params.get("min_tokens", 0) > most:
        raise fields.refusal("min_tokens", params["min_tokens"], f"at most {most}, the largest number of tokens")
    if "stop" in params:
        params["stop"] = _stop_texts(params["stop"])
    if "stop_token_ids" in params:
        params["stop_token_ids"] = tuple(params["stop_token_ids"])
    if "logit_bias" in params:
        params["logit_bias"] = tuple(sorted((int(token), float(bias)) for token, bias in params["logit_bias"].items()))
    params["logprobs"] = _logprobs(params.get("logprobs", False), params.pop("top_logprobs", 0))
    return params | _as_other_servers(params)


def _stop_texts(stop: str | list[str]) -> tuple[str, ...]:
    """Return the texts of ``stop`` without empty ones, which stand everywhere and are never meant so."""
    return tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text)


def _as_other_servers(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return our values for those that other servers take in place of ours.

    A temperature so low that vLLM, too, takes it for 0 would leave the choice to the rounding of the logits.
    """
    ours: dict[str, Any] = {}
    if params.get("top_k") == -1:
        ours["top_k"] = 0
    if params.get("seed") == NO_SEED:
        ours["seed"] = None
    if 0 < params.get("temperature", 0) < RANGES["temperature"].low:
        ours["temperature"] = 0
    return ours


def _logprobs(logprobs: bool | int, top: int) -> int | None:
    """Return the number of most probable tokens to report; None for no log-probabilities.

    The completions API gives the number as ``logprobs``; the chat API gives ``logprobs: true`` and the number as
    ``top_logprobs``.
    """
    if top and logprobs is not True:
        raise fields.refusal("top_logprobs", top, "this field only beside logprobs: true")
    if logprobs is True:
        return top
    return None if logprobs is False else logprobs
