"""Fields that are meant for us, under the names of other tools or in another spelling, are never carried silently."""

from __future__ import annotations

import json
from typing import Any

import pytest

from spectr_jobs.records import fields, names, record
from spectr_jobs.records.record import COMPLETIONS, BadRecord, Record, parse
from spectr_runtime import SamplingParams


def read(value: dict[str, Any]) -> Record | BadRecord:
    return parse(json.dumps(value).encode(), "in.jsonl:3", "simple", SamplingParams())


def message(value: dict[str, Any]) -> str:
    found = read(value)
    assert isinstance(found, BadRecord), found
    assert found.error.code == "unsupported_parameter"
    return str(found.error)


@pytest.mark.parametrize(
    ("name", "value", "right"),
    [
        ("max_new_tokens", 4, "max_tokens"),
        ("maxOutputTokens", 4, "max_tokens"),
        ("maxTokens", 4, "max_tokens"),
        ("max-tokens", 4, "max_tokens"),
        ("Max Tokens", 4, "max_tokens"),
        ("n_predict", 4, "max_tokens"),
        ("Temperature", 0, "temperature"),
        ("topP", 0.5, "top_p"),
        ("stop_sequences", ["return"], "stop"),
        ("stopSequences", ["return"], "stop"),
        ("eos_token_id", 2, "stop_token_ids"),
        ("num_return_sequences", 2, "n"),
        ("random_seed", 1, "seed"),
        ("repeat_penalty", 1.1, "repetition_penalty"),
        ("top_logprobs_num", 3, "top_logprobs"),
        ("prompt_token_ids", [1, 2], "token_ids"),
        ("input_ids", [1, 2], "token_ids"),
        ("ID", 5, "id"),
        ("responseFormat", {"type": "json_object"}, "response_format"),
        ("enableThinking", False, "enable_thinking"),
    ],
)
def test_a_name_that_is_meant_for_a_field_is_answered_with_the_field(name: str, value: Any, right: str):
    shown = json.dumps(value)
    assert message({"prompt": "a", name: value}) == (
        f"in.jsonl:3: {name}: got {shown}, allowed {right}, as spectr calls this field."
    )
    body = {"custom_id": "a", "method": "POST", "url": COMPLETIONS, "body": {"prompt": "a", name: value}}
    right = "prompt" if right == "token_ids" else right
    if right != "id":
        expected = f"in.jsonl:3: {name}: got {shown}, allowed no such field at {COMPLETIONS}. Did you mean {right}?"
        assert message(body) == expected


@pytest.mark.parametrize("name", ["sampling_params", "generation_config", "generationConfig", "extra_body"])
def test_an_object_of_sampling_fields_is_to_be_given_field_by_field(name: str):
    assert message({"prompt": "a", name: {"top_k": 5}}) == (
        f'in.jsonl:3: {name}: got {{"top_k": 5}}, allowed its fields beside the prompt.'
    )


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("do_sample", False, "true or null (use temperature)"),
        ("return_full_text", True, "false or null (use echo)"),
        ("continue_final_message", True, "false or null (spectr does not honour this field)"),
        ("add_generation_prompt", False, "true or null (spectr does not honour this field)"),
        ("truncate_prompt_tokens", 9, "null (spectr does not honour this field)"),
        ("num_beams", 4, "1 or null (spectr does not honour this field)"),
        ("add_special_tokens", False, "true beside a text; token_ids give the tokens one by one"),
    ],
)
def test_a_field_that_is_understood_and_not_served_is_refused_in_both_shapes(name: str, value: Any, allowed: str):
    body = {"custom_id": "a", "method": "POST", "url": COMPLETIONS, "body": {"prompt": "a", name: value}}
    expected = f"in.jsonl:3: {name}: got {json.dumps(value)}, allowed {allowed}."
    assert message({"prompt": "a", name: value}) == message(body) == expected


@pytest.mark.parametrize("value", [None, "", [], {}])
def test_a_name_of_another_tool_without_a_value_asks_for_nothing(value: Any):
    found = read({"prompt": "a", "stop_sequences": value})
    assert isinstance(found, Record)
    assert found.origin.carried == {"stop_sequences": value}


def test_ordinary_columns_are_carried():
    columns = ["prompt_id", "num_tokens", "uid", "text_id", "category", "label", "model", "user", "metadata", "tokens"]
    columns += ["input", "output", "target", "question", "message", "k", "p", "length", "prompt_tokens", "parameters"]
    columns += ["max_score", "temperatures", "stopped", "seeds", "logprob", "max_tokens_reached", "top", "min", "url"]
    found = read({"prompt": "a", **dict.fromkeys(columns, 1)})
    assert isinstance(found, Record)
    assert [*found.origin.carried] == columns


def test_a_misspelt_field_of_a_body_is_answered_with_the_nearest():
    body = {"custom_id": "a", "method": "POST", "url": COMPLETIONS, "body": {"prompt": "a", "max_tokns": 5}}
    assert message(body).endswith("allowed no such field at /v1/completions. Did you mean max_tokens?")
    body["body"] = {"token_ids": [1]}
    assert message(body).endswith("allowed no such field at /v1/completions. Did you mean prompt?")
    body["body"] = {"prompt": "a", "extra_body": {"top_k": 5}}
    assert message(body).endswith("allowed no such field at /v1/completions. Give its fields beside the prompt.")


def test_names_of_other_tools_lead_to_fields_and_are_none_themselves():
    known = record.FIELDS | {"id", *record.PROMPTS}
    assert {*names.OTHERS.values()} <= known | {names.TOP}
    assert not names.OTHERS.keys() & (known | record.RESERVED | record.HARMLESS) - fields.UNSUPPORTED.keys()
    assert len({names.folded(name) for name in known}) == len(known)
