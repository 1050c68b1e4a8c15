"""What a record says to the chat template reaches it, in both shapes of record and in either place."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest

from spectr_jobs.records import template
from spectr_jobs.records.record import CHAT, COMPLETIONS, BadRecord, Record, parse
from spectr_runtime import Chat, SamplingParams

SAID = [{"role": "user", "content": "Hi"}]


def read(value: dict[str, Any]) -> Record | BadRecord:
    return parse(json.dumps(value).encode(), "in.jsonl:3", "simple", SamplingParams())


def both(body: dict[str, Any], url: str = CHAT) -> list[Record | BadRecord]:
    return [read(body), read({"custom_id": "a", "method": "POST", "url": url, "body": body})]


@pytest.mark.parametrize(
    ("given", "arguments"),
    [
        ({}, {}),
        ({"chat_template_kwargs": None, "enable_thinking": None}, {}),
        ({"chat_template_kwargs": {}}, {}),
        ({"chat_template_kwargs": {"enable_thinking": False}}, {"enable_thinking": False}),
        ({"enable_thinking": False}, {"enable_thinking": False}),
        ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "low", "chat_template_kwargs": {"reasoning_effort": "low"}}, {"reasoning_effort": "low"}),
        ({"chat_template_kwargs": {"reasoning_effort": None, "date": None}}, {"date": None}),
        (
            {"enable_thinking": True, "chat_template_kwargs": {"date": "today", "x": [1]}},
            {"enable_thinking": True, "date": "today", "x": [1]},
        ),
    ],
)
def test_arguments_of_the_chat_template_reach_the_conversation(given: dict[str, Any], arguments: dict[str, Any]):
    for found in both({"messages": SAID} | given):
        assert isinstance(found, Record)
        assert found.prompts == (Chat(tuple(SAID), arguments),)


@pytest.mark.parametrize("name", [None, "tool_use"])
def test_the_name_of_a_chat_template_reaches_the_conversation(name: str | None):
    for found in both({"messages": SAID, "chat_template": name, "enable_thinking": True}):
        assert isinstance(found, Record)
        assert found.prompts == (Chat(tuple(SAID), {"enable_thinking": True}, name),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"chat_template": ""}, 'chat_template: got "", allowed the name of one of the bundle\'s chat templates.'),
        (
            {"chat_template": ["a"]},
            'chat_template: got ["a"], allowed the name of one of the bundle\'s chat templates.',
        ),
        (
            {"chat_template": "{{ x }}"},
            'chat_template: got "{{ x }}", allowed the name of one of the bundle\'s chat templates, not a template.',
        ),
        (
            {"enable_thinking": True, "chat_template_kwargs": {"enable_thinking": False}},
            "enable_thinking: got true, allowed false, as chat_template_kwargs says, or one of the two.",
        ),
        ({"enable_thinking": "no"}, 'enable_thinking: got "no", allowed true or false.'),
        ({"reasoning_effort": 3}, "reasoning_effort: got 3, allowed a non-empty text."),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs: got [1], allowed an object."),
        (
            {"chat_template_kwargs": {"enable_thinking": 0}},
            "chat_template_kwargs.enable_thinking: got 0, allowed true or false.",
        ),
        (
            {"chat_template_kwargs": {"strftime_now": "x"}},
            'chat_template_kwargs.strftime_now: got "x", allowed arguments of other names: spectr sets this one.',
        ),
        (
            {"add_special_tokens": True},
            "add_special_tokens: got true, allowed false beside messages: the chat template writes them itself.",
        ),
    ],
)
def test_arguments_that_cannot_be_used_are_refused(given: dict[str, Any], message: str):
    for found in both({"messages": SAID} | given):
        assert isinstance(found, BadRecord)
        assert str(found.error) == f"in.jsonl:3: {message}"


@pytest.mark.parametrize(
    "given",
    [
        {"enable_thinking": False},
        {"reasoning_effort": "low"},
        {"chat_template_kwargs": {"a": 1}},
        {"chat_template": "default"},
    ],
)
def test_arguments_are_refused_where_there_is_no_conversation(given: dict[str, Any]):
    ((name, value),) = given.items()
    for found in both({"prompt": "Hi"} | given, COMPLETIONS):
        assert isinstance(found, BadRecord)
        shown = json.dumps(value)
        assert str(found.error) == f"in.jsonl:3: {name}: got {shown}, allowed this field only beside messages."


def test_every_argument_of_apply_chat_template_is_taken():
    transformers = pytest.importorskip("transformers")
    taken = inspect.signature(transformers.PreTrainedTokenizerBase.apply_chat_template).parameters
    assert taken.keys() - {"self", "kwargs"} <= template.TAKEN
