"""Rows: the lines of ``output.jsonl`` and ``errors.jsonl``, pure functions of their record and the run's manifest."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from spectr_jobs.records import logprobs
from spectr_jobs.records.record import CHAT, BadRecord, Origin, Record, located
from spectr_runtime.rows.request import Completion, Failure, Outcome

Row = Mapping[str, Any]
DEFAULT_MODEL = "spectr"
RETRYABLE = "server_error"
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}  # JSON itself escapes the others


def row_of(record: Record, outcomes: Sequence[Outcome], *, seed: int, created: int) -> Row:
    """The line of a decoded record: in the output if all its completions succeeded, in the errors otherwise.

    A plain record that asked for one completion has ``text`` and what belongs to it in its row; one that asked for
    several has a list of such objects, ``completions``.

    Args:
        record: Where they came from.
        outcomes: What the decoder made of each of its requests, in any order.
        seed: The run seed; with the record's id it names the request.
        created: When the run was started, in seconds since 1970.
    """
    ordered = sorted(outcomes, key=lambda outcome: outcome.choice)
    for outcome in ordered:
        if isinstance(outcome, Failure):
            location = record.origin.location + (f", completion {outcome.choice}" if record.size > 1 else "")
            return error_row(BadRecord(record.origin, located(outcome.error, location)), seed=seed)
    completions = [outcome for outcome in ordered if isinstance(outcome, Completion)]
    if record.origin.shape == "openai":
        return _openai_row(record.origin, 200, _openai_body(record, completions, seed, created), seed)
    simple = [_simple_completion(record, one) for one in completions]
    return {
        "id": record.origin.id,
        **(simple[0] if record.size == 1 else {"completions": simple}),
        "usage": _usage(record, completions),
        "speculation": _speculation(completions),
        **record.origin.carried,
    }


def error_row(bad: BadRecord, *, seed: int) -> Row:
    """The line of a failed record in the errors file."""
    kind = RETRYABLE if bad.error.retryable else "invalid_request_error"
    error = {"message": str(bad.error), "type": kind, "param": bad.error.param, "code": bad.error.code}
    if bad.origin.shape == "openai":
        return _openai_row(bad.origin, 500 if bad.error.retryable else 400, {"error": error}, seed)
    return {"id": bad.origin.id, "error": error, **bad.origin.carried}


def encode(row: Row) -> bytes:
    """A row as one line of UTF-8, whichever characters its reader takes for the end of a line."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_LINE_ENDS).encode("utf-8") + b"\n"


def key(row: Row) -> str:
    """The id of a row as the decoder and the run directory know it."""
    return str(row["custom_id"] if "custom_id" in row else row["id"])


def content(row: Row) -> Mapping[str, Any]:
    """The part of a row that holds ``usage`` and ``speculation``, or ``error``."""
    body: Mapping[str, Any] = row["response"]["body"] if "custom_id" in row else row
    return body


def token_ids(row: Row) -> list[Sequence[int]]:
    """Token ids of every completion of a row of the output; nothing if it does not hold them."""
    body = content(row)
    completions = body.get("choices" if "custom_id" in row else "completions", [body])
    return [one["token_ids"] for one in completions] if all("token_ids" in one for one in completions) else []


def is_failure(row: Row) -> bool:
    """Whether a row belongs in the errors file."""
    return content(row).get("error") is not None


def is_retryable(row: Row) -> bool:
    """Whether a row of the errors file may turn out well when its record is decoded again."""
    error = content(row).get("error")
    return error is not None and error["type"] == RETRYABLE


def _openai_row(origin: Origin, status: int, body: Mapping[str, Any], seed: int) -> Row:
    name = _request_name(origin, seed)
    return {
        "id": f"batch_req_{name}",
        "custom_id": origin.id,
        "response": {"status_code": status, "request_id": name, "body": body},
        "error": None,
    }


def _openai_body(record: Record, completions: Sequence[Completion], seed: int, created: int) -> Mapping[str, Any]:
    origin, chat = record.origin, record.origin.url == CHAT
    usage = _usage(record, completions)
    return {
        "id": ("chatcmpl-" if chat else "cmpl-") + _request_name(origin, seed),
        "object": "chat.completion" if chat else "text_completion",
        "created": created,
        "model": origin.model or DEFAULT_MODEL,
        "choices": [{"index": one.choice, **_choice(record, one, chat=chat)} for one in completions],
        "usage": usage | {"total_tokens": usage["prompt_tokens"] + usage["completion_tokens"]},
        "speculation": _speculation(completions),
    }


def _choice(record: Record, one: Completion, *, chat: bool) -> dict[str, Any]:
    """A completion as the API's choice; the token ids are an extension."""
    fields = _simple_completion(record, one)
    text, scored = fields.pop("text"), fields.pop("logprobs", None)
    if not chat:
        scored = None if one.logprobs is None else logprobs.columns(one.logprobs)
        return {"text": text, "logprobs": scored, **fields}
    scored = None if scored is None else {"content": scored, "refusal": None}
    return {"message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": scored, **fields}


def _simple_completion(record: Record, one: Completion) -> dict[str, Any]:
    """A completion as a plain row has it."""
    prompt = record.prompts[one.choice // record.wanted.n]
    fields: dict[str, Any] = {"text": f"{prompt}{one.text}" if record.wanted.echo else one.text}
    if record.wanted.token_ids:
        fields["token_ids"] = list(one.token_ids)
    if one.logprobs is not None:
        fields["logprobs"] = logprobs.entries(one.logprobs)
    return fields | {"finish_reason": one.finish_reason}


def _request_name(origin: Origin, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{origin.key}".encode()).hexdigest()[:32]


def _usage(record: Record, completions: Sequence[Completion]) -> dict[str, int]:
    """Token counts over all completions; a prompt counts once, however many completions it has."""
    return {
        "prompt_tokens": sum(one.usage.prompt_tokens for one in completions[:: record.wanted.n]),
        "completion_tokens": sum(one.usage.completion_tokens for one in completions),
    }


def _speculation(completions: Sequence[Completion]) -> dict[str, Any]:
    stats = [one.speculation for one in completions]
    depths = itertools.zip_longest(*(one.accepted_at_depth for one in stats), fillvalue=0)
    return {"rounds": sum(one.rounds for one in stats), "accepted_at_depth": [sum(counts) for counts in depths]}
