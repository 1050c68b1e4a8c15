"""Rows: the lines of ``output.jsonl`` and ``errors.jsonl``.

A row is a function of its record, the outcomes of the record's requests and the manifest of the run. Its shape is that
of its record: the row of an openai record is a line as the Batch API writes it; the row of a simple record is flat:

    {"id": "a", "text": " upon a time", "token_ids": [703, 258, 640], "finish_reason": "length",
     "usage": {"prompt_tokens": 1, "completion_tokens": 3},
     "speculation": {"rounds": 1, "accepted_at_depth": [1, 1], "sources": {"draft": {"rounds": 1, "proposed": 4,
     "accepted": 2}}}, "author": "carried into the row"}
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from spectr_jobs.records import logprobs
from spectr_jobs.records.record import CHAT, BadRecord, Origin, Record, located
from spectr_runtime.rows.drafting import SOURCES
from spectr_runtime.rows.request import Completion, Failure, Outcome

Row = Mapping[str, Any]
Sources = Mapping[str, Mapping[str, int]]  # what each source of drafts did: its rounds, proposed and accepted tokens
DEFAULT_MODEL = "spectr"
RETRYABLE = "server_error"  # type of errors that may not recur
# Characters that some readers take for the end of a line, and that JSON does not escape by itself.
_LINE_ENDS = {ord(end): f"\\u{ord(end):04x}" for end in "\x85\u2028\u2029"}


def row_of(record: Record, outcomes: Sequence[Outcome], *, seed: int, created: int) -> Row:
    """Return the row of a decoded record: of the output if all its requests succeeded, otherwise of the errors.

    The row of a simple record that asks for one completion has ``text`` and its related fields itself. If the record
    asks for several completions, the row has a list of objects with these fields, ``completions``.

    Args:
        record: The record.
        outcomes: The outcomes of all its requests, in any order.
        seed: The run seed; seed and id determine the ids that the row of an openai record has.
        created: Start of the run, in seconds since 1970.
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
    """Return the row of a failed record."""
    kind = RETRYABLE if bad.error.retryable else "invalid_request_error"
    error = {"message": str(bad.error), "type": kind, "param": bad.error.param, "code": bad.error.code}
    if bad.origin.shape == "openai":
        return _openai_row(bad.origin, 500 if bad.error.retryable else 400, {"error": error}, seed)
    return {"id": bad.origin.id, "error": error, **bad.origin.carried}


def encode(row: Row) -> bytes:
    """Return a row as one line of UTF-8, with every character escaped that some reader takes for the end of a line."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.translate(_LINE_ENDS).encode("utf-8") + b"\n"


def key(row: Row) -> str:
    """Return the id of a row's record as a text; see ``Origin.key``."""
    return str(row["custom_id"] if "custom_id" in row else row["id"])


def content(row: Row) -> Mapping[str, Any]:
    """Return the part of a row that contains ``usage`` and ``speculation``, or ``error``."""
    body: Mapping[str, Any] = row["response"]["body"] if "custom_id" in row else row
    return body


def token_ids(row: Row) -> list[Sequence[int]]:
    """Return the token ids of every completion of a row of the output; an empty list if the row has none at all."""
    body = content(row)
    completions = body.get("choices" if "custom_id" in row else "completions", [body])
    found = [one.get("token_ids", ()) for one in completions]
    return found if any(found) else []


def is_failure(row: Row) -> bool:
    """Return whether a row belongs into the errors."""
    return content(row).get("error") is not None


def is_retryable(row: Row) -> bool:
    """Return whether a row is an error that may not recur when its record is decoded again."""
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
    """Return a completion as a choice of the API, without its index; the token ids are an extension of the API."""
    fields = _simple_completion(record, one)
    text, scored = fields.pop("text"), fields.pop("logprobs", None)
    if not chat:
        scored = None if one.logprobs is None else logprobs.columns(one.logprobs)
        return {"text": text, "logprobs": scored, **fields}
    scored = None if scored is None else {"content": scored, "refusal": None}
    return {"message": {"role": "assistant", "content": text, "refusal": None}, "logprobs": scored, **fields}


def _simple_completion(record: Record, one: Completion) -> dict[str, Any]:
    """Return the fields of a completion in the row of a simple record."""
    fields: dict[str, Any] = {"text": one.text}
    if record.wanted.token_ids:
        fields["token_ids"] = list(one.token_ids)
    if one.logprobs is not None:
        fields["logprobs"] = logprobs.entries(one.logprobs)
    return fields | {"finish_reason": one.finish_reason}


def _request_name(origin: Origin, seed: int) -> str:
    return hashlib.sha256(f"{seed}\0{origin.key}".encode()).hexdigest()[:32]


def _usage(record: Record, completions: Sequence[Completion]) -> dict[str, int]:
    """Return the token counts over all completions. A prompt counts once, however many completions it has."""
    return {
        "prompt_tokens": sum(one.usage.prompt_tokens for one in completions[:: record.wanted.n]),
        "completion_tokens": sum(one.usage.completion_tokens for one in completions),
    }


def _speculation(completions: Sequence[Completion]) -> dict[str, Any]:
    stats = [one.speculation for one in completions]
    depths = itertools.zip_longest(*(one.accepted_at_depth for one in stats), fillvalue=0)
    found = {"rounds": sum(one.rounds for one in stats), "accepted_at_depth": [sum(counts) for counts in depths]}
    sources = add_sources(*({name: dataclasses.asdict(did) for name, did in one.sources.items()} for one in stats))
    return found | ({"sources": sources} if sources else {})


def add_sources(*counts: Sources) -> dict[str, dict[str, int]]:
    """Return the sums of what sources of drafts did, by their names in the order in which these are told."""
    total: dict[str, Counter[str]] = {name: Counter() for name in SOURCES}
    for one in counts:
        for name, did in one.items():
            total.setdefault(name, Counter()).update(did)
    return {name: dict(did) for name, did in total.items() if did}
