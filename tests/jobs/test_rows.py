from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import pytest

from spectr_jobs.records import rows
from spectr_jobs.records.record import CHAT, COMPLETIONS, BadRecord, Record, parse
from spectr_jobs.records.tally import Tally
from spectr_runtime import (
    Completion,
    Failure,
    Outcome,
    RequestError,
    RowError,
    SamplingParams,
    SpeculationStats,
    TokenLogprob,
    Usage,
)
from spectr_runtime.rows.drafting import SourceStats

COMPLETION = Completion("a", "Hello", (5, 6), "stop", Usage(3, 2), SpeculationStats(4, (3, 1)))
TOP = (TokenLogprob(7, "\ufffd", b"\xc3", -0.5), TokenLogprob(8, "\ufffd", b"\xc5", -1.0))
LOGPROBS = (TokenLogprob(7, "\ufffd", b"\xc3", -0.5, TOP), TokenLogprob(9, "\ufffd", b"\xa9", -math.inf, TOP))


@pytest.fixture
def openai_types() -> Any:
    return pytest.importorskip("openai.types")


def record(value: dict[str, Any]) -> Record:
    found = parse(json.dumps(value).encode(), "in.jsonl:1", "simple", SamplingParams())
    assert isinstance(found, Record)
    return found


def batch_record(url: str, **asked: Any) -> Record:
    prompt = {"messages": [{"role": "user", "content": "Hi"}]} if url == CHAT else {"prompt": "Hi"}
    return record({"custom_id": "a", "method": "POST", "url": url, "body": prompt | {"model": "m"} | asked})


def row_of(found: Record, *outcomes: Outcome, seed: int = 0) -> Any:
    return rows.row_of(found, outcomes or [COMPLETION], seed=seed, created=1_800_000_000)


def completions(count: int, **changes: Any) -> list[Completion]:
    """Several completions of one record, the last first."""
    return [
        dataclasses.replace(COMPLETION, choice=choice, text=f"Hello {choice}", **changes)
        for choice in reversed(range(count))
    ]


def test_a_simple_row_is_the_completion_and_what_was_carried():
    assert row_of(record({"id": 5, "prompt": "Hi", "gold": "é"})) == {
        "id": 5,
        "text": "Hello",
        "token_ids": [5, 6],
        "finish_reason": "stop",
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        "speculation": {"rounds": 4, "accepted_at_depth": [3, 1]},
        "gold": "é",
    }


def test_what_sources_of_drafts_did_is_summed_over_the_completions():
    found = record({"id": 5, "prompt": "Hi", "n": 2})
    first = SpeculationStats(4, (3, 1), {"lookup": SourceStats(2, 8, 3), "draft": SourceStats(1, 4, 1)})
    second = SpeculationStats(1, (1,), {"corpus": SourceStats(1, 5, 1), "lookup": SourceStats(1, 1, 0)})
    made = [dataclasses.replace(COMPLETION, choice=n, speculation=one) for n, one in enumerate((first, second))]
    expected = {
        "draft": {"rounds": 1, "proposed": 4, "accepted": 1},
        "lookup": {"rounds": 3, "proposed": 9, "accepted": 3},
        "corpus": {"rounds": 1, "proposed": 5, "accepted": 1},
    }
    row = row_of(found, *made)
    assert row["speculation"] == {"rounds": 5, "accepted_at_depth": [4, 1], "sources": expected}
    assert list(row["speculation"]["sources"]) == list(expected), "in one order whatever was seen first"
    counted = Tally()
    counted.add(row)
    counted.add(row_of(record({"id": 6, "prompt": "Hi"})))  # as of plain decoding, and of a release before sources
    assert counted.sources == expected
    counted.merge(Tally.from_json(json.loads(json.dumps(counted.to_json()))))
    assert counted.sources["corpus"] == {"rounds": 2, "proposed": 10, "accepted": 2}
    assert Tally.from_json({"accepted_at_depth": []}).sources == {}


def test_token_ids_are_left_out_on_demand():
    assert "token_ids" not in row_of(record({"id": 5, "prompt": "Hi", "return_token_ids": False}))
    assert "token_ids" not in str(row_of(batch_record(CHAT, return_token_ids=False)))


def test_several_completions_make_a_list_and_count_their_prompt_once():
    found = record({"id": 5, "prompt": ["Hi", "Ho"], "n": 2, "gold": 1})
    row = row_of(found, *completions(4))
    assert [one["text"] for one in row["completions"]] == ["Hello 0", "Hello 1", "Hello 2", "Hello 3"]
    assert row["completions"][3] == {"text": "Hello 3", "token_ids": [5, 6], "finish_reason": "stop"}
    assert {name: row[name] for name in ("usage", "speculation", "gold")} == {
        "usage": {"prompt_tokens": 6, "completion_tokens": 8},
        "speculation": {"rounds": 16, "accepted_at_depth": [12, 4]},
        "gold": 1,
    }
    assert "text" not in row


def test_the_choices_of_the_api_keep_their_numbers(openai_types: Any):
    found = batch_record(COMPLETIONS, prompt=["Hi", "Ho"], n=2)
    body = openai_types.Completion.model_validate(row_of(found, *completions(4))["response"]["body"], strict=True)
    assert [(one.index, one.text) for one in body.choices] == [
        (0, "Hello 0"),
        (1, "Hello 1"),
        (2, "Hello 2"),
        (3, "Hello 3"),
    ]
    assert (body.usage.prompt_tokens, body.usage.completion_tokens, body.usage.total_tokens) == (6, 8, 14)


def test_one_failed_completion_fails_its_record():
    later = Failure("a", RowError("Later.", code="non_finite_logits"), choice=2)
    never = Failure("a", RequestError("No.", code="context_length_exceeded"), choice=1)
    row = row_of(record({"id": "a", "prompt": "Hi", "n": 3}), later, never, *completions(1))
    assert rows.is_failure(row)
    assert row["error"]["message"] == "in.jsonl:1, completion 1: No."
    assert not rows.is_retryable(row)


def test_logprobs_of_completions_read_back_with_the_types_of_openai(openai_types: Any):
    (one,) = completions(1, logprobs=LOGPROBS)
    row = row_of(batch_record(COMPLETIONS, logprobs=2), one)
    body = openai_types.Completion.model_validate(row["response"]["body"], strict=True)
    scored = body.choices[0].logprobs
    assert scored.tokens == ["\ufffd", "\ufffd"]
    assert scored.token_logprobs == [-0.5, -9999.0]
    assert scored.top_logprobs == [{"\ufffd": -0.5}, {"\ufffd": -0.5}]
    assert scored.text_offset == [0, 0]
    assert rows.encode(row)


def test_offsets_count_the_characters_of_the_text(openai_types: Any):
    pieces = [b"ab", b"\xc3", b"\xa9", b"c", b"\xe9", b"d", b"e"]
    tokens = [TokenLogprob(n, "x", data, -1.0) for n, data in enumerate(pieces)]
    (one,) = completions(1, logprobs=tuple(tokens))
    row = row_of(batch_record(COMPLETIONS, logprobs=0), one)
    assert row["response"]["body"]["choices"][0]["logprobs"]["text_offset"] == [0, 2, 2, 3, 4, 4, 6]


ECHOED = (
    TokenLogprob(5, "Hi", b"Hi", None),
    TokenLogprob(6, " é", b" \xc3\xa9", -1.0, (TokenLogprob(7, "!", b"!", -0.5),)),
    TokenLogprob(8, "ab", b"ab", -2.0),
)


def test_an_echoed_prompt_is_scored_from_its_second_token_on(openai_types: Any):
    (one,) = completions(1, logprobs=ECHOED)
    row = row_of(batch_record(COMPLETIONS, logprobs=1, echo=True, max_tokens=1), one)
    assert row["response"]["body"]["choices"][0]["logprobs"] == {
        "tokens": ["Hi", " é", "ab"],
        "token_logprobs": [None, -1.0, -2.0],
        "top_logprobs": [None, {"!": -0.5, " é": -1.0}, {"ab": -2.0}],
        "text_offset": [0, 2, 4],
    }
    plain = row_of(record({"prompt": "Hi", "logprobs": 1, "echo": True}), one)
    first, second, _ = plain["logprobs"]
    assert first == {"token": "Hi", "bytes": [72, 105], "logprob": None, "top_logprobs": []}
    assert second["logprob"] == -1.0
    assert rows.encode(plain)


def test_rows_of_which_nothing_was_written_have_no_token_ids_to_audit():
    silent = completions(2, token_ids=())
    assert rows.token_ids(row_of(record({"prompt": "Hi", "n": 2, "max_tokens": 0}), *silent)) == []
    assert rows.token_ids(row_of(record({"prompt": "Hi", "max_tokens": 0}), silent[-1])) == []
    one = dataclasses.replace(silent[0], token_ids=(5,))
    assert rows.token_ids(row_of(record({"prompt": "Hi", "n": 2}), one, silent[1])) == [[], [5]]
    assert rows.token_ids(row_of(record({"prompt": "Hi", "return_token_ids": False}))) == []


def test_logprobs_of_a_conversation_read_back_with_the_types_of_openai(openai_types: Any):
    (one,) = completions(1, logprobs=LOGPROBS)
    row = row_of(batch_record(CHAT, logprobs=True, top_logprobs=2), one)
    body = openai_types.chat.ChatCompletion.model_validate(row["response"]["body"], strict=True)
    first, second = body.choices[0].logprobs.content
    assert (first.token, first.bytes, first.logprob) == ("\ufffd", [0xC3], -0.5)
    assert [(top.bytes, top.logprob) for top in first.top_logprobs] == [([0xC3], -0.5), ([0xC5], -1.0)]
    assert second.logprob == -9999.0
    plain = row_of(record({"prompt": "Hi", "logprobs": 2}), one)
    assert plain["logprobs"] == row["response"]["body"]["choices"][0]["logprobs"]["content"]


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
