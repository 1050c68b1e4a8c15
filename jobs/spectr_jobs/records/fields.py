"""The fields of a record: their names, types and ranges, which are the same for both shapes of input.

Every error message reads ``field: got ..., allowed ...``. The caller adds the record's location, ``file:line: ``.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import TypeGuard

from spectr_runtime.errors import RequestError
from spectr_runtime.rows.drafting import LONGEST, SOURCES
from spectr_runtime.rows.ranges import LOGIT_BIAS, RANGES, Range

SHOWN = 60  # characters of a value in a message
MAX_COMPLETIONS = 128  # so many completions may be asked for one prompt
NO_SEED = -1  # what vLLM, llama.cpp and others call a seed that is not given


@dataclasses.dataclass(frozen=True, slots=True)
class Check:
    """The values that a field may have.

    Attributes:
        accepts: A predicate for values.
        allowed: The same in words, for messages.
    """

    accepts: Callable[[object], bool]
    allowed: str


def is_integer(value: object) -> bool:
    """Return whether a JSON value is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def integer(allowed: Range, words: str = "") -> Check:
    """Return a check for an integer in a range; ``words`` replaces the range's bounds in messages."""
    return Check(
        lambda value: isinstance(value, int) and is_integer(value) and allowed.holds(value),
        words or f"an integer from {allowed.bounds}",
    )


def _is_number(value: object) -> TypeGuard[int | float]:
    return isinstance(value, int | float) and not isinstance(value, bool)


def number(allowed: Range, words: str = "") -> Check:
    """Return a check for a number in a range; ``words`` replaces the range's bounds in messages."""
    return Check(lambda value: _is_number(value) and allowed.holds(value), words or f"a number from {allowed.bounds}")


def is_text(value: object) -> bool:
    """Return whether a JSON value is a text of at least one character."""
    return isinstance(value, str) and value != ""


def _is_any_text(value: object) -> bool:
    return isinstance(value, str)


def list_of(accepts: Callable[[object], bool]) -> Callable[[object], bool]:
    """Return a predicate for a list, possibly empty, of accepted values."""
    return lambda value: isinstance(value, list) and all(map(accepts, value))


def is_token(value: object) -> bool:
    """Return whether a JSON value may be a token id."""
    return isinstance(value, int) and is_integer(value) and value >= 0


_BIAS = number(LOGIT_BIAS)
_TOKEN = re.compile("0|[1-9][0-9]{0,9}")


def _is_bias(value: object) -> bool:
    return isinstance(value, dict) and all(
        _TOKEN.fullmatch(token) and _BIAS.accepts(bias) for token, bias in value.items()
    )


def _is_draft(value: object) -> bool:
    if isinstance(value, dict):
        length = value.get("length")
        known = value.keys() <= {"source", "length"} and value.get("source") in SOURCES
        return known and (length is None or _DRAFT_LENGTH.accepts(length))
    return value is False or value in SOURCES


_DRAFT_LENGTH = integer(Range(1, LONGEST))
BOOLEAN = Check(lambda value: isinstance(value, bool), "true or false")
TOP_LOGPROBS = integer(RANGES["logprobs"])
# The fields that are understood. The last five say what the row is drafted from, how many completions are wanted, and
# what the row holds.
SAMPLING: Mapping[str, Check] = {
    "max_tokens": integer(RANGES["max_tokens"]),
    "max_completion_tokens": integer(RANGES["max_tokens"]),
    "temperature": number(Range(0, RANGES["temperature"].high)),
    "top_p": number(RANGES["top_p"]),
    "top_k": integer(Range(-1), "an integer from 1 upwards, or 0 or -1 for all tokens"),
    "min_p": number(RANGES["min_p"]),
    "presence_penalty": number(RANGES["presence_penalty"]),
    "frequency_penalty": number(RANGES["frequency_penalty"]),
    "repetition_penalty": number(RANGES["repetition_penalty"]),
    "logit_bias": Check(_is_bias, f"an object of token ids and numbers from {LOGIT_BIAS.bounds}"),
    "min_tokens": integer(Range(0)),
    "stop": Check(lambda value: _is_any_text(value) or list_of(_is_any_text)(value), "a text or a list of texts"),
    "seed": integer(
        dataclasses.replace(RANGES["seed"], low=NO_SEED), f"an integer {RANGES['seed'].words}, or {NO_SEED} for none"
    ),
    "stop_token_ids": Check(list_of(is_token), "a list of token ids"),
    "ignore_eos": BOOLEAN,
    "logprobs": Check(
        lambda value: isinstance(value, bool) or TOP_LOGPROBS.accepts(value), f"true, false or {TOP_LOGPROBS.allowed}"
    ),
    "top_logprobs": TOP_LOGPROBS,
    "draft": Check(
        _is_draft,
        f"false, {' or '.join(SOURCES)}, or an object of such a source and, if wanted, a length, "
        f"{_DRAFT_LENGTH.allowed}",
    ),
    "n": integer(Range(1, MAX_COMPLETIONS)),
    "best_of": integer(Range(1)),
    "echo": BOOLEAN,
    "return_token_ids": BOOLEAN,
}

# Fields of the OpenAI API and of other tools that are not supported, each with the values that are accepted because
# they ask for nothing. Null is accepted everywhere.
UNSUPPORTED: Mapping[str, tuple[object, ...]] = {
    "add_generation_prompt": (True,),
    "allowed_token_ids": (),
    "audio": (),
    "bad_words": ([],),
    "bad_words_ids": ([],),
    "bad_words_list": ([],),
    "beam_width": (1,),
    "begin_suppress_tokens": ([],),
    "continue_final_message": (False,),
    "custom_logit_processor": (),
    "decoder_input_details": (False,),
    "detokenize": (True,),
    "diversity_penalty": (0,),
    "do_sample": (True,),
    "dry_multiplier": (0,),
    "dynatemp_range": (0,),
    "early_stopping": (False,),
    "epsilon_cutoff": (0,),
    "eta_cutoff": (0,),
    "force_words_ids": ([],),
    "forced_bos_token_id": (),
    "forced_eos_token_id": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "guidance_scale": (1,),
    "guided_choice": (),
    "guided_grammar": (),
    "guided_json": (),
    "guided_regex": (),
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "logits_processors": ([],),
    "mirostat": (0,),
    "modalities": (["text"],),
    "no_repeat_ngram_size": (0,),
    "no_stop_trim": (False,),
    "num_beam_groups": (1,),
    "num_beams": (1,),
    "penalty_alpha": (0,),
    "prompt_embeds": (),
    "prompt_logprobs": (),
    "response_format": ({"type": "text"},),
    "return_full_text": (False,),
    "return_hidden_states": (False,),
    "return_tokens_as_token_ids": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
    "stop_regex": (),
    "stream": (False,),
    "stream_options": (),
    "structured_outputs": (),
    "suffix": ("",),
    "suppress_tokens": ([],),
    "tfs_z": (1,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_a": (0,),
    "top_n_sigma": (-1,),
    "truncate_prompt_tokens": (),
    "typical_p": (1,),
    "use_beam_search": (False,),
    "xtc_probability": (0,),
}


def shown(value: object) -> str:
    """Return a value as JSON, cut to fit into a message."""
    text = json.dumps(value, ensure_ascii=False, default=repr)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def refusal(name: str, value: object, allowed: str, code: str = "invalid_value") -> RequestError:
    """Return the error of a field that has a value which is not allowed."""
    return RequestError(f"{name}: got {shown(value)}, allowed {allowed}.", param=name, code=code)


def missing(name: str, allowed: str) -> RequestError:
    """Return the error of a field that is required and absent."""
    return RequestError(f"{name}: got nothing, allowed {allowed}.", param=name, code="missing_required_parameter")


def require(name: str, value: object, check: Check) -> None:
    """Check the value of a field.

    Raises:
        RequestError: The check does not accept the value.
    """
    if not check.accepts(value):
        raise refusal(name, value, check.allowed)
