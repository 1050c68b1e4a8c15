from __future__ import annotations

import json
from typing import Any

import pytest

from spectr_jobs import rows
from spectr_jobs.records import CHAT, COMPLETIONS, BadRecord, Record, parse
from spectr_jobs.tally import Tally
from spectr_runtime import Completion, RequestError, RowError, SamplingParams, SpeculationStats, Usage

COMPLETION = Completion("a", "Hello", (5, 6), "stop", Usage(3, 2), SpeculationStats(4, (3, 1)))


@pytest.fixture
def openai_types() -> Any:
    return pytest.importorskip("openai.types")


def record(value: dict[str, Any]) -> Record:
    found = parse(json.dumps(value).encode(), "in.jsonl:1", "simple", SamplingParams())
    assert isinstance(found, Record)
    return found


def batch_record(url: str) -> Record:
    prompt = {"messages": [{"role": "user", "content": "Hi"}]} if url == CHAT else {"prompt": "Hi"}
    return record({"custom_id": "a", "method": "POST", "url": url, "body": prompt | {"model": "m"}})


def row_of(found: Record, *, seed: int = 0) -> Any:
    return rows.completion_row(found, COMPLETION, seed=seed, created=1_800_000_000)


def test_a_simple_row_is_the_completion_and_what_was_carried():
    assert row_of(record({"id": 5, "prompt": "Hi", "gold": "é"})) == {
        "id": 5,
        "text": "Hello",
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        "speculation": {"rounds": 4, "accepted_at_depth": [3, 1]},
        "gold": "é",
    }


def test_token_ids_answer_token_ids():
    assert row_of(record({"id": 5, "token_ids": [1]}))["token_ids"] == [5, 6]


def test_a_completion_reads_back_with_the_types_of_openai(openai_types: Any):
    row = row_of(batch_record(COMPLETIONS))
    body = openai_types.Completion.model_validate(row["response"]["body"], strict=True)
    assert (row["custom_id"], row["error"], row["response"]["status_code"]) == ("a", None, 200)
    assert (body.choices[0].text, body.model, body.created) == ("Hello", "m", 1_800_000_000)
    assert body.usage is not None
    assert body.usage.total_tokens == 5


def test_a_chat_completion_reads_back_with_the_types_of_openai(openai_types: Any):
    body = openai_types.chat.ChatCompletion.model_validate(row_of(batch_record(CHAT))["response"]["body"], strict=True)
    assert (body.choices[0].message.content, body.choices[0].finish_reason) == ("Hello", "stop")


def test_ids_of_requests_follow_from_seed_and_record():
    one, same, other = (row_of(batch_record(CHAT), seed=seed) for seed in (0, 0, 1))
    assert one == same
    assert one["id"] != other["id"]
    assert one["response"]["body"]["id"] == "chatcmpl-" + one["response"]["request_id"]


@pytest.mark.parametrize(
    ("error", "status", "kind", "retryable"),
    [
        (RequestError("No.", param="n", code="unsupported_parameter"), 400, "invalid_request_error", False),
        (RowError("Later.", code="non_finite_logits"), 500, "server_error", True),
    ],
)
def test_a_failed_row_says_what_whose_fault_and_whether_to_try_again(
    error: RequestError, status: int, kind: str, retryable: bool
):
    said = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    row = rows.error_row(BadRecord(batch_record(CHAT).origin, error), seed=0)
    assert row["response"]["status_code"] == status
    assert row["response"]["body"] == {"error": said}
    simple = rows.error_row(BadRecord(record({"id": 5, "prompt": "Hi", "gold": 1}).origin, error), seed=0)
    assert simple == {"id": 5, "error": said, "gold": 1}
    assert rows.is_retryable(row) is rows.is_retryable(simple) is retryable


def test_a_line_is_one_line_of_utf8_for_every_reader():
    row = {"id": "a", "text": "é\u2028\u2029\x85\x1c\r\n"}
    line = rows.encode(row)
    assert line == '{"id":"a","text":"é\\u2028\\u2029\\u0085\\u001c\\r\\n"}\n'.encode()
    assert json.loads(line) == row
    assert len(line.decode().splitlines()) == 1


def test_a_tally_counts_rows_of_both_shapes_alike():
    simple, batch = Tally(), Tally()
    simple.add(row_of(record({"id": 1, "prompt": "Hi"})))
    batch.add(row_of(batch_record(COMPLETIONS)))
    assert simple == batch == Tally(1, 0, 3, 2, 4, [3, 1])
    assert simple.block_efficiency == 2.0
    assert simple.acceptance_by_depth == [0.75, 0.25]


def test_tallies_add_up_over_different_depths():
    tally = Tally(1, 0, 3, 2, 4, [3, 1])
    tally.merge(Tally(2, 1, 1, 1, 4, [4, 2, 1]))
    assert tally == Tally(3, 1, 4, 3, 8, [7, 3, 1])
    assert Tally.from_json(json.loads(json.dumps(tally.to_json()))) == tally


def test_a_tally_without_rounds_has_no_efficiency():
    tally = Tally()
    tally.add(rows.error_row(BadRecord(batch_record(CHAT).origin, RequestError("No.")), seed=0))
    assert (tally.rows, tally.failed, tally.block_efficiency, tally.acceptance_by_depth) == (0, 1, None, [])
