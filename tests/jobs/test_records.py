from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spectr_jobs.records import fields, rows
from spectr_jobs.records.record import CHAT, COMPLETIONS, BadRecord, Record, Shape, detect, parse
from spectr_runtime import Chat, SamplingParams
from spectr_runtime.rows.drafting import DraftChoice

DEFAULTS = SamplingParams(max_tokens=64, temperature=0.5, top_k=9)


def read(value: Any, shape: Shape = "simple") -> Record | BadRecord:
    line = value if isinstance(value, bytes) else json.dumps(value).encode()
    return parse(line, "in.jsonl:3", shape, DEFAULTS)


def good(value: Any) -> Record:
    record = read(value)
    assert isinstance(record, Record), record
    return record


def error_of(value: Any) -> tuple[str | None, str, str]:
    record = read(value)
    assert isinstance(record, BadRecord), record
    return record.error.param, record.error.code, str(record.error)


def openai(body: dict[str, Any], url: str = COMPLETIONS, **envelope: Any) -> dict[str, Any]:
    return {"custom_id": "a", "method": "POST", "url": url, "body": body} | envelope


def test_a_simple_record_carries_what_it_does_not_know():
    record = good({"id": "x", "prompt": "Hi", "top_p": 0.5, "gold": [1, {"a": None}], "model": "m"})
    assert record.origin.key == "x"
    assert record.prompts[0] == "Hi"
    assert record.wanted.params == SamplingParams(max_tokens=64, temperature=0.5, top_k=9, top_p=0.5)
    assert record.origin.carried == {"gold": [1, {"a": None}], "model": "m"}


def test_an_integer_id_keeps_its_type_and_reaches_the_decoder_as_text():
    record = good({"id": 7, "prompt": "Hi"})
    assert (record.origin.id, record.origin.key) == (7, "7")


def test_a_record_without_id_is_named_by_its_place():
    assert good({"prompt": "Hi"}).origin.key == "in.jsonl:3"
    assert good({"id": None, "prompt": "Hi"}).origin.key == "in.jsonl:3"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"prompt": "Hi"}, "simple"),
        ({"messages": [], "custom_id": "a"}, "simple"),
        ({"token_ids": [1], "body": "carried"}, "simple"),
        ({"custom_id": "a"}, "openai"),
        ({"body": {}}, "openai"),
        ({"id": "a"}, None),
    ],
)
def test_the_shape_is_told_by_its_fields(value: dict[str, Any], expected: str | None):
    assert detect(value) == expected


def test_lines_that_do_not_tell_their_shape_take_that_of_the_file():
    assert read(b"{", "openai").origin.shape == "openai"
    assert read(b"{", "simple").origin.shape == "simple"
    assert read({"prompt": "Hi"}, "openai").origin.shape == "simple"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"max_tokens": 3}, {"max_tokens": 3}),
        ({"max_tokens": 0}, {"max_tokens": 0}),
        ({"max_completion_tokens": 3}, {"max_tokens": 3}),
        ({"max_tokens": 3, "max_completion_tokens": 3}, {"max_tokens": 3}),
        ({"max_tokens": None}, {}),
        ({"temperature": 0}, {"temperature": 0}),
        ({"top_k": -1}, {"top_k": 0}),
        ({"stop": "a"}, {"stop": ("a",)}),
        ({"stop": ["a", "b", "c", "d", "e"]}, {"stop": ("a", "b", "c", "d", "e")}),
        ({"stop": []}, {}),
        ({"stop": ""}, {}),
        ({"stop": [""]}, {}),
        ({"stop": ["", "a", ""]}, {"stop": ("a",)}),
        ({"seed": -1}, {"seed": None}),
        ({"top_p": 0}, {"top_p": 0}),
        ({"temperature": 1e-40}, {"temperature": 0}),
        ({"temperature": 9e-6}, {"temperature": 0}),
        ({"temperature": 1e-5}, {"temperature": 1e-5}),
        ({"seed": 2**63 - 1}, {"seed": 2**63 - 1}),
        ({"stop_token_ids": [0, 5]}, {"stop_token_ids": (0, 5)}),
        ({"ignore_eos": True}, {"ignore_eos": True}),
        ({"min_p": 0.1, "repetition_penalty": 1.2}, {"min_p": 0.1, "repetition_penalty": 1.2}),
        ({"presence_penalty": -2, "frequency_penalty": 0.5}, {"presence_penalty": -2, "frequency_penalty": 0.5}),
        ({"logit_bias": {"50": -100, "7": 0.5}}, {"logit_bias": ((7, 0.5), (50, -100.0))}),
        ({"min_tokens": 3, "max_tokens": 3}, {"min_tokens": 3, "max_tokens": 3}),
        ({"logprobs": 0}, {"logprobs": 0}),
        ({"logprobs": 20}, {"logprobs": 20}),
        ({"n": 1, "stream": False, "logprobs": None, "min_p": 0.0, "logit_bias": {}, "echo": False}, {}),
        ({"logprobs": False, "top_logprobs": 0, "best_of": 1, "return_token_ids": True}, {}),
        ({"tools": [], "response_format": {"type": "text"}, "repetition_penalty": 1.0, "suffix": ""}, {}),
        ({"tool_choice": "auto", "do_sample": True, "num_beams": 1, "add_special_tokens": True}, {}),
        ({"chat_template_kwargs": {}, "reasoning_effort": None, "enable_thinking": None}, {}),
    ],
)
def test_sampling_fields_are_read_alike_in_both_shapes(fields: dict[str, Any], expected: dict[str, Any]):
    base = {"max_tokens": 64, "temperature": 0.5, "top_k": 9}
    params = SamplingParams(**(base | expected))
    assert good({"prompt": "Hi"} | fields).wanted.params == params
    assert good(openai({"prompt": "Hi"} | fields)).wanted.params == params


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("max_tokens", -1, "invalid_value"),
        ("max_tokens", True, "invalid_value"),
        ("max_tokens", "5", "invalid_value"),
        ("max_tokens", 5.0, "invalid_value"),
        ("temperature", -0.1, "invalid_value"),
        ("temperature", "hot", "invalid_value"),
        ("temperature", 10**30, "invalid_value"),
        ("top_p", -0.1, "invalid_value"),
        ("top_p", 1.01, "invalid_value"),
        ("top_k", -2, "invalid_value"),
        ("stop", 3, "invalid_value"),
        ("stop", ["a", 3], "invalid_value"),
        ("seed", -2, "invalid_value"),
        ("seed", 2**63, "invalid_value"),
        ("stop_token_ids", [1, -1], "invalid_value"),
        ("stop_token_ids", 1, "invalid_value"),
        ("ignore_eos", 1, "invalid_value"),
        ("stream", True, "unsupported_parameter"),
        ("n", 0, "invalid_value"),
        ("n", 129, "invalid_value"),
        ("n", True, "invalid_value"),
        ("best_of", 2, "invalid_value"),
        ("logprobs", 21, "invalid_value"),
        ("logprobs", "all", "invalid_value"),
        ("top_logprobs", 2, "invalid_value"),
        ("draft", True, "invalid_value"),
        ("draft", "model", "invalid_value"),
        ("draft", 0, "invalid_value"),
        ("draft", [], "invalid_value"),
        ("draft", {}, "invalid_value"),
        ("draft", {"length": 4}, "invalid_value"),
        ("draft", {"source": False}, "invalid_value"),
        ("draft", {"source": "lookup", "length": 0}, "invalid_value"),
        ("draft", {"source": "lookup", "length": 256}, "invalid_value"),
        ("draft", {"source": "lookup", "length": True}, "invalid_value"),
        ("draft", {"source": "lookup", "paths": 2}, "invalid_value"),
        ("logit_bias", {"a": 1}, "invalid_value"),
        ("logit_bias", {"05": 1}, "invalid_value"),
        ("logit_bias", {"5": 101}, "invalid_value"),
        ("logit_bias", {"5": True}, "invalid_value"),
        ("logit_bias", [5], "invalid_value"),
        ("presence_penalty", 2.1, "invalid_value"),
        ("frequency_penalty", -3, "invalid_value"),
        ("echo", "yes", "invalid_value"),
        ("return_token_ids", 1, "invalid_value"),
        ("tools", [{}], "unsupported_parameter"),
        ("response_format", {"type": "json_object"}, "unsupported_parameter"),
        ("min_p", 1.1, "invalid_value"),
        ("repetition_penalty", 0, "invalid_value"),
        ("min_tokens", -1, "invalid_value"),
        ("min_tokens", 65, "invalid_value"),
        ("suffix", "end", "unsupported_parameter"),
    ],
)
def test_a_field_out_of_range_or_not_supported_is_refused_in_both_shapes(field: str, value: Any, code: str):
    for record in ({"id": "a", "prompt": "Hi", field: value}, openai({"prompt": "Hi", field: value})):
        param, found, message = error_of(record)
        assert (param, found) == (field, code)
        assert message.startswith(f"in.jsonl:3: {field}: got {json.dumps(value)}, allowed ")


@pytest.mark.parametrize(
    ("asked", "choice"),
    [
        (None, None),
        (False, DraftChoice(None)),
        ("lookup", DraftChoice("lookup")),
        ({"source": "texts"}, DraftChoice("texts")),
        ({"source": "corpus", "length": None}, DraftChoice("corpus")),
        ({"source": "draft", "length": 255}, DraftChoice("draft", 255)),
    ],
)
def test_a_record_says_what_its_completions_are_drafted_from(asked: Any, choice: DraftChoice | None):
    for record in (
        good({"prompt": "Hi", "n": 2, "draft": asked}),
        good(openai({"prompt": "Hi", "n": 2, "draft": asked})),
    ):
        assert [request.draft for request in record.requests] == [choice, choice]
        assert record.origin.carried == {}


def test_the_message_of_a_draft_says_what_is_allowed():
    assert error_of({"prompt": "Hi", "draft": "wiki"})[2] == (
        'in.jsonl:3: draft: got "wiki", allowed false, draft or lookup or corpus or texts, or an object of such a '
        "source and, if wanted, a length, an integer from 1 to 255."
    )


def test_a_number_beyond_any_float_is_refused_and_shown_in_short():
    param, code, message = error_of({"prompt": "Hi", "temperature": 10**400})
    assert (param, code) == ("temperature", "invalid_value")
    assert message == f"in.jsonl:3: temperature: got 1{'0' * 56}..., allowed a number from 0 to 1000."


def test_the_two_names_of_the_token_limit_must_agree():
    param, _, message = error_of({"prompt": "Hi", "max_tokens": 3, "max_completion_tokens": 4})
    assert param == "max_completion_tokens"
    assert message == "in.jsonl:3: max_completion_tokens: got 4, allowed 3, as max_tokens says, or one of the two."


@pytest.mark.parametrize(("asked", "top"), [({"logprobs": True}, 0), ({"logprobs": True, "top_logprobs": 5}, 5)])
def test_conversations_ask_for_logprobs_in_two_fields(asked: dict[str, Any], top: int):
    body = {"messages": [{"role": "user", "content": "Hi"}]} | asked
    assert good(openai(body, CHAT)).wanted.params.logprobs == good(body).wanted.params.logprobs == top


def test_each_refusal_of_a_pair_of_fields_names_the_other():
    assert error_of({"prompt": "Hi", "n": 2, "best_of": 3})[2] == (
        "in.jsonl:3: best_of: got 3, allowed 2, as n says: every completion is returned."
    )
    assert error_of({"prompt": "Hi", "max_tokens": 4, "min_tokens": 5})[2] == (
        "in.jsonl:3: min_tokens: got 5, allowed at most 4, the largest number of tokens."
    )
    assert error_of({"prompt": "Hi", "top_logprobs": 3})[2] == (
        "in.jsonl:3: top_logprobs: got 3, allowed this field only beside logprobs: true."
    )
    assert error_of({"messages": [{"role": "user", "content": "Hi"}], "echo": True})[2] == (
        "in.jsonl:3: echo: got true, allowed false beside messages."
    )


def test_a_prompt_may_be_echoed_and_scored_without_writing_anything():
    scored = {"echo": True, "logprobs": 1, "max_tokens": 0}
    for prompt in ("Hi", [1, 2], [[1, 2], [3]]):
        for record in (good({"prompt": prompt} | scored), good(openai({"prompt": prompt} | scored))):
            assert [request.echo for request in record.requests] == [True] * record.size
            assert (record.wanted.params.max_tokens, record.wanted.params.logprobs) == (0, 1)
    assert not next(good({"prompt": "Hi"}).requests).echo


def test_the_requests_of_a_record_are_numbered_prompt_by_prompt():
    record = good({"id": "x", "prompt": ["a", "b"], "n": 3})
    assert record.size == 6
    found = list(record.requests)
    assert [(request.id, request.prompt, request.choice) for request in found] == [
        ("x", "aaabbb"[choice], choice) for choice in range(6)
    ]
    assert [request.sample for request in found] == [0, 1, 2, 0, 1, 2]
    assert good({"prompt": [[1, 2], [3]]}).prompts == ((1, 2), (3,))


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({}, "prompt", "missing_required_parameter"),
        ({"prompt": ""}, "prompt", "invalid_value"),
        ({"prompt": []}, "prompt", "invalid_value"),
        ({"prompt": 5}, "prompt", "invalid_value"),
        ({"prompt": [1, -1]}, "prompt", "invalid_value"),
        ({"prompt": [1, True]}, "prompt", "invalid_value"),
        ({"prompt": ["a", ""]}, "prompt", "invalid_value"),
        ({"prompt": ["a", [1]]}, "prompt", "invalid_value"),
        ({"prompt": ["a", 1]}, "prompt", "invalid_value"),
        ({"prompt": [[1], []]}, "prompt", "invalid_value"),
        ({"prompt": [[1], [True]]}, "prompt", "invalid_value"),
        ({"token_ids": []}, "token_ids", "invalid_value"),
        ({"token_ids": "Hi"}, "token_ids", "invalid_value"),
        ({"prompt": "Hi", "token_ids": [1]}, "token_ids", "invalid_value"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": "Hi"}, "messages", "invalid_value"),
        ({"messages": ["Hi"]}, "messages[0]", "invalid_value"),
        ({"messages": [{"content": "Hi"}]}, "messages[0].role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "invalid_value"),
        (
            {"messages": [{"role": "user", "content": "Hi", "tool_calls": [{}]}]},
            "messages[0].tool_calls",
            "unsupported_parameter",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "messages[0].content",
            "unsupported_parameter",
        ),
        ({"prompt": "Hi", "id": ""}, "id", "invalid_value"),
        ({"prompt": "Hi", "id": 1.5}, "id", "invalid_value"),
        ({"prompt": "Hi", "id": True}, "id", "invalid_value"),
        ({"prompt": "Hi", "text": "gold"}, "text", "reserved_field"),
        ({"prompt": "Hi", "custom_id": "b"}, "custom_id", "reserved_field"),
        ({"prompt": "Hi", "completions": []}, "completions", "reserved_field"),
        ({"prompt": "Hi", "enable_thinking": False}, "enable_thinking", "invalid_value"),
        ({"prompt": "Hi", "add_special_tokens": False}, "add_special_tokens", "unsupported_parameter"),
    ],
)
def test_a_simple_record_without_one_good_prompt_is_refused(fields: dict[str, Any], param: str, code: str):
    assert error_of({"id": "a"} | fields)[:2] == (param, code)


def test_prompts_may_be_text_token_ids_or_messages():
    assert good({"prompt": [1, 2]}).prompts[0] == (1, 2)
    assert good({"token_ids": [1, 2]}).prompts[0] == (1, 2)
    assert good(openai({"prompt": [1, 2]})).prompts[0] == (1, 2)
    said = [
        {"role": "system", "content": "Be brief"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    chat = Chat(({"role": "system", "content": "Be brief"}, {"role": "user", "content": "ab"}))
    assert good({"messages": said}).prompts[0] == chat
    assert good(openai({"messages": said, "model": "m", "user": "u", "metadata": {"k": "v"}}, CHAT)).prompts[0] == chat


@pytest.mark.parametrize(
    ("record", "param", "code"),
    [
        ({"custom_id": "a", "method": "POST", "url": COMPLETIONS}, "body", "missing_required_parameter"),
        (openai({"prompt": "Hi"}, custom_id=None), "custom_id", "missing_required_parameter"),
        (openai({"prompt": "Hi"}, custom_id=5), "custom_id", "invalid_value"),
        (openai({"prompt": "Hi"}, method="GET"), "method", "invalid_value"),
        (openai({"prompt": "Hi"}, "/v1/embeddings"), "url", "invalid_value"),
        (openai({"prompt": "Hi"}, CHAT), "prompt", "unsupported_parameter"),
        (openai({"messages": []}), "messages", "unsupported_parameter"),
        (openai({}), "prompt", "missing_required_parameter"),
        (openai({"prompt": "Hi"}, priority=1), "priority", "unsupported_parameter"),
        (openai({"prompt": "Hi", "logprobs": True}), "logprobs", "invalid_value"),
        (openai({"messages": [{"role": "user", "content": "Hi"}], "logprobs": 0}, CHAT), "logprobs", "invalid_value"),
        (openai({"messages": [{"role": "user", "content": "Hi"}], "echo": True}, CHAT), "echo", "invalid_value"),
        (openai({"prompt": "Hi", "max_token": 5}), "max_token", "unsupported_parameter"),
    ],
)
def test_an_openai_record_with_a_wrong_envelope_or_body_is_refused(record: dict[str, Any], param: str, code: str):
    assert error_of(record)[:2] == (param, code)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (b'{"prompt": "a"', "invalid_json"),
        (b'["prompt"]', "invalid_json"),
        (b"null", "invalid_json"),
        (b'{"prompt": "a", "x": NaN}', "invalid_json"),
        (b'{"prompt": "a", "x": 1e999}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b'{"prompt": ' + b"1" * 5000 + b"}", "invalid_json"),
        (b'{"prompt": "\xff"}', "invalid_encoding"),
        (b'{"prompt": "\\ud800"}', "invalid_encoding"),
    ],
)
def test_a_line_that_is_not_a_json_object_in_utf8_is_refused(line: bytes, code: str):
    param, found, message = error_of(line)
    assert (param, found) == (None, code)
    assert message.startswith("in.jsonl:3: line: got ")


@pytest.mark.parametrize(
    ("line", "got"),
    [
        ("Hello", 'broken JSON at character 1, "Hello" (expecting value)'),
        ('{"prompt": "a"', "broken JSON at its end (expecting ',' delimiter)"),
        ('{"prompt": "a', 'broken JSON at character 12, "\\"a" (unterminated string starting)'),
        ('{"prompt": "a"} {}', 'broken JSON at character 17, "{}" (extra data)'),
        ('{"prompt": "\t"}', 'broken JSON at character 13, "\\t\\"}" (invalid control character)'),
        ('{"x": NaN}', "NaN, which JSON does not know"),
        ('{"x": 1e999}', "1e999, a number out of range"),
        ('{"x": ' + "1" * 5000 + "}", "a number of too many digits"),
        ("[1]", "[1]"),
    ],
)
def test_a_line_that_cannot_be_read_says_what_stands_where(line: str, got: str):
    assert error_of(line.encode())[2] == f"in.jsonl:3: line: got {got}, allowed one JSON object per line."


def nested(depth: int, kind: str = "[") -> bytes:
    """A record with so many levels in it, the record itself being the first."""
    opening, closing = ("[", "]") if kind == "[" else ('{"a":', "}")
    return f'{{"id": "d", "prompt": "a", "x": {opening * (depth - 1)}1{closing * (depth - 1)}}}'.encode()


@pytest.mark.parametrize("kind", "[{")
@pytest.mark.parametrize("depth", [129, 900, 1000, 100_000])
def test_a_record_that_is_nested_too_deeply_fails_under_its_place_however_deep_the_caller_is(kind: str, depth: int):
    def below(frames: int) -> Record | BadRecord:
        return read(nested(depth, kind)) if frames == 0 else below(frames - 1)

    for frames in (0, 300):
        record = below(frames)
        assert isinstance(record, BadRecord)
        assert (record.origin.id, record.origin.carried) == ("in.jsonl:3", {})
        assert str(record.error) == (
            "in.jsonl:3: line: got JSON that is nested more than 128 levels deep, allowed at most 128 levels."
        )


@pytest.mark.parametrize("kind", "[{")
def test_what_is_nested_less_deeply_is_carried(kind: str):
    record = read(nested(128, kind))
    assert record.origin.id == "d"
    assert json.dumps(record.origin.carried["x"]).count(kind) == 127


def test_brackets_side_by_side_or_in_texts_are_not_nested():
    many = [[n] for n in range(500)]
    assert good({"prompt": "a", "x": many, "code": "[{" * 500, "quoted": '"[\\' * 500}).origin.carried["x"] == many
    assert good({"prompt": [[1]] * 300}).size == 300


@pytest.mark.parametrize(
    "envelope",
    [
        {"url": f"{CHAT}/"},
        {"url": f"https://api.openai.com{CHAT}"},
        {"url": f"http://localhost:8000{CHAT}/"},
        {"method": "post"},
    ],
)
def test_an_endpoint_may_have_a_host_and_a_slash_at_its_end(envelope: dict[str, Any]):
    record = good(openai({"messages": [{"role": "user", "content": "Hi"}]}, CHAT) | envelope)
    assert record.origin.url == CHAT


@pytest.mark.parametrize("url", ["/v1/responses", f"{CHAT}?a=1", f"/openai{CHAT}", "https://h/x" + CHAT, "", 5, None])
def test_another_endpoint_is_refused(url: Any):
    record = read(openai({"messages": [{"role": "user", "content": "Hi"}]}) | {"url": url})
    assert isinstance(record, BadRecord)
    assert record.error.param == "url"
    assert str(record.error).endswith('allowed "/v1/completions" or "/v1/chat/completions".')


def test_a_message_of_a_library_may_have_fields_without_values():
    idle = {"refusal": None, "annotations": [], "audio": None, "tool_calls": None, "reasoning_content": "", "x": {}}
    said = [{"role": "assistant", "content": "Hi", "name": None} | idle]
    assert good({"messages": said}).prompts[0] == Chat(({"role": "assistant", "content": "Hi"},))
    assert error_of({"messages": [said[0] | {"reasoning_content": "Hm"}]})[0] == "messages[0].reasoning_content"


def test_a_bad_record_keeps_the_id_and_the_fields_that_it_has():
    record = read({"id": "x", "prompt": "", "gold": 1})
    assert (record.origin.id, record.origin.carried) == ("x", {"gold": 1})
    assert read(openai({"prompt": ""}, custom_id="b")).origin.id == "b"


NAMES = sorted(
    {*fields.SAMPLING, *fields.UNSUPPORTED, "id", "prompt", "messages", "token_ids", "custom_id", "url", "body", "x"}
)
patient = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=8,
)


@patient
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=6), st.sampled_from(["openai", "simple"]))
def test_any_object_is_a_record_or_an_error_that_can_be_written(value: dict[str, Any], shape: Shape):
    found = read(json.dumps(value).encode(), shape)
    if isinstance(found, BadRecord):
        row = json.loads(rows.encode(rows.error_row(found, seed=0)))
        assert rows.key(row) == found.origin.key
        assert rows.content(row)["error"]["message"].startswith("in.jsonl:3: ")
    else:
        assert found.origin.key == found.origin.key
        assert found.prompts[0]


@patient
@given(st.binary(max_size=60))
def test_any_bytes_are_a_record_or_an_error(line: bytes):
    assert read(line).origin.location == "in.jsonl:3"
