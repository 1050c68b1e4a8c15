"""The fields of a record: their types, ranges and names, checked in one place for both shapes of input.

Every refusal reads ``field: got ..., allowed ...``; whoever knows the place puts ``file:line: `` in front.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeGuard

from spectr_runtime.errors import RequestError
from spectr_runtime.request import MAX_SEED, TEMPERATURES, Chat, Prompt, SamplingParams, is_temperature

SHOWN = 60


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """What a field may hold: a predicate, and the same in words."""

    accepts: Callable[[object], bool]
    allowed: str


def is_integer(value: object) -> bool:
    """Whether a JSON value is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def integer(low: int, high: float = math.inf) -> Check:
    """Check for an integer from ``low`` to ``high``, both allowed."""
    top = "upwards" if high == math.inf else f"to {high}"
    return Check(
        lambda value: isinstance(value, int) and is_integer(value) and low <= value <= high,
        f"an integer from {low} {top}",
    )


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _list_of(accepts: Callable[[object], bool]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, list) and all(map(accepts, value))


def _is_token(value: object) -> bool:
    return isinstance(value, int) and is_integer(value) and value >= 0


SAMPLING: Mapping[str, Check] = {
    "max_tokens": integer(1),
    "max_completion_tokens": integer(1),
    "temperature": Check(lambda value: _is_number(value) and is_temperature(value), TEMPERATURES),
    "top_p": Check(lambda value: _is_number(value) and 0 < value <= 1, "a number above 0, at most 1"),
    "top_k": Check(integer(-1).accepts, "an integer from 1 upwards, or 0 or -1 for all tokens"),
    "stop": Check(lambda value: _is_text(value) or _list_of(_is_text)(value), "a non-empty text or a list of them"),
    "seed": Check(integer(0, MAX_SEED).accepts, "an integer from 0 to 2**63 - 1"),
    "stop_token_ids": Check(_list_of(_is_token), "a list of token ids"),
    "ignore_eos": Check(lambda value: isinstance(value, bool), "true or false"),
}

# Fields of the OpenAI API and of its common extensions that are not honoured, with the values that ask for nothing.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "best_of": (1,),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "echo": (False,),
    "frequency_penalty": (0,),
    "function_call": ("none",),
    "functions": ([],),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "logprobs": (False,),
    "min_p": (0,),
    "min_tokens": (0,),
    "modalities": (["text"],),
    "n": (1,),
    "presence_penalty": (0,),
    "prompt_logprobs": (),
    "reasoning_effort": (),
    "repetition_penalty": (1,),
    "response_format": ({"type": "text"},),
    "skip_special_tokens": (True,),
    "stream": (False,),
    "stream_options": (),
    "structured_outputs": (),
    "suffix": ("",),
    "tool_choice": ("none",),
    "tools": ([],),
    "top_logprobs": (0,),
    "typical_p": (1,),
    "use_beam_search": (False,),
}


def shown(value: object) -> str:
    """A value as JSON, cut to fit a message."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def refusal(name: str, value: object, allowed: str, code: str = "invalid_value") -> RequestError:
    """The error of a field that holds something else than it may."""
    return RequestError(f"{name}: got {shown(value)}, allowed {allowed}.", param=name, code=code)


def missing(name: str, allowed: str) -> RequestError:
    """The error of a field that must be there."""
    return RequestError(f"{name}: got nothing, allowed {allowed}.", param=name, code="missing_required_parameter")


def require(name: str, value: object, check: Check) -> None:
    """Refuse a value that the check does not accept.

    Raises:
        RequestError: Naming the field, the value and what is allowed.
    """
    if not check.accepts(value):
        raise refusal(name, value, check.allowed)


def read_sampling(fields: Mapping[str, object], defaults: SamplingParams) -> SamplingParams:
    """The sampling parameters of a record; a field that is absent or null takes its default.

    Raises:
        RequestError: A field has the wrong type, is out of range, or asks for what is not supported.
    """
    given = {}
    for name, value in fields.items():
        if name in UNSUPPORTED:
            _refuse_unsupported(name, value, UNSUPPORTED[name])
        elif name in SAMPLING and value is not None:
            require(name, value, SAMPLING[name])
            given[name] = value
    return dataclasses.replace(defaults, **_as_params(given))


def _refuse_unsupported(name: str, value: object, idle: tuple[object, ...]) -> None:
    if value is None or any(_same(value, other) for other in idle):
        return
    allowed = " or ".join(shown(other) for other in (*idle, None))
    raise refusal(name, value, f"{allowed} (spectr does not honour this field)", "unsupported_parameter")


def _same(value: object, other: object) -> bool:
    return value == other and isinstance(value, bool) == isinstance(other, bool)


def _as_params(given: Mapping[str, Any]) -> dict[str, Any]:
    params = dict(given)
    limit = params.pop("max_completion_tokens", None)
    if limit is not None and params.setdefault("max_tokens", limit) != limit:
        raise refusal(
            "max_completion_tokens", limit, f"{shown(given['max_tokens'])}, as max_tokens says, or one of the two"
        )
    if params.get("top_k") == -1:
        params["top_k"] = 0
    if "stop" in params:
        stop = params["stop"]
        params["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    if "stop_token_ids" in params:
        params["stop_token_ids"] = tuple(params["stop_token_ids"])
    return params


def read_prompt(name: str, value: object) -> Prompt:
    """A prompt: a text or a list of token ids.

    Raises:
        RequestError: It is empty, of another type, or holds several prompts.
    """
    if isinstance(value, list) and value and all(isinstance(item, str | list) for item in value):
        raise refusal(name, value, "one prompt per record; split the list into records", "unsupported_parameter")
    if _is_text(value):
        return str(value)
    if isinstance(value, list) and value and all(map(_is_token, value)):
        return tuple(value)
    raise refusal(name, value, "a non-empty text or a non-empty list of token ids")


def read_token_ids(value: object) -> Prompt:
    """A prompt that is given as token ids.

    Raises:
        RequestError: It is not a non-empty list of token ids.
    """
    if not (isinstance(value, list) and value and all(map(_is_token, value))):
        raise refusal("token_ids", value, "a non-empty list of token ids")
    return tuple(value)


def read_messages(value: object) -> Chat:
    """A conversation. Lists of text parts are joined; tools, images and sound are refused.

    Raises:
        RequestError: It is empty or malformed, or asks for more than text.
    """
    if not isinstance(value, list) or not value:
        raise refusal("messages", value, "a non-empty list of messages")
    return Chat(tuple(_read_message(f"messages[{index}]", item) for index, item in enumerate(value)))


def _read_message(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise refusal(name, value, 'an object like {"role": "user", "content": "..."}')
    if not _is_text(value.get("role")):
        raise refusal(f"{name}.role", value.get("role"), "a non-empty text")
    beyond = [key for key, item in value.items() if key not in ("role", "content", "name") and item not in (None, [])]
    if beyond:
        raise refusal(f"{name}.{beyond[0]}", value[beyond[0]], "role, content and name", "unsupported_parameter")
    kept = {key: value[key] for key in ("role", "name") if value.get(key) is not None}
    return {**kept, "content": _read_content(f"{name}.content", value.get("content"))}


def _read_content(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise refusal(name, value, "a text or a list of text parts")
    parts = []
    for part in value:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise refusal(name, part, 'parts like {"type": "text", "text": "..."}', "unsupported_parameter")
        parts.append(part["text"])
    return "".join(parts)


def nearest(name: str, known: Iterable[str]) -> str:
    """A question that helps with a misspelt name, or nothing."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.8)
    return f" Did you mean {found[0]}?" if found else ""
