"""Rows: the lines of ``output.jsonl`` and ``errors.jsonl``, pure functions of their record and the run's manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from spectr_jobs.records import CHAT, BadRecord, Origin, Record
from spectr_runtime.request import Completion

Row = Mapping[str, Any]
DEFAULT_MODEL = "spectr"
RETRYABLE = "server_error"
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}  # JSON itself escapes the others


def completion_row(record: Record, completion: Completion, *, seed: int, created: int) -> Row:
    """The output line of a finished record.

    Args:
        record: Where it came from.
        completion: What the decoder wrote.
        seed: The run seed; with the record's id it names the request.
        created: When the run was started, in seconds since 1970.
    """
    if record.origin.shape == "openai":
        return _openai_row(record.origin, 200, _openai_body(record.origin, completion, seed, created), seed)
    row: dict[str, Any] = {"id": record.origin.id, "text": completion.text}
    if isinstance(record.request.prompt, tuple):
        row["token_ids"] = list(completion.token_ids)
    return row | {
        "finish_reason": completion.finish_reason,
        "usage": _usage(completion),
        "speculation": _speculation(completion),
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


def _openai_body(origin: Origin, completion: Completion, seed: int, created: int) -> Mapping[str, Any]:
    chat = origin.url == CHAT
    said: Mapping[str, Any] = (
        {"message": {"role": "assistant", "content": completion.text, "refusal": None}}
        if chat
        else {"text": completion.text}
    )
    return {
        "id": ("chatcmpl-" if chat else "cmpl-") + _request_name(origin, seed),
        "object": "chat.completion" if chat else "text_completion",
        "created": created,
        "model": origin.model or DEFAULT_MODEL,
        "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": completion.finish_reason}],
        "usage": _usage(completion)
        | {"total_tokens": completion.usage.prompt_tokens + completion.usage.completion_tokens},
        "speculation": _speculation(completion),
    }


def _request_name(origin: Origin, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{origin.key}".encode()).hexdigest()[:32]


def _usage(completion: Completion) -> dict[str, int]:
    return {
        "prompt_tokens": completion.usage.prompt_tokens,
        "completion_tokens": completion.usage.completion_tokens,
    }


def _speculation(completion: Completion) -> dict[str, Any]:
    stats = completion.speculation
    return {"rounds": stats.rounds, "accepted_at_depth": list(stats.accepted_at_depth)}
