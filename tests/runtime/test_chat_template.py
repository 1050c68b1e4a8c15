"""Chat templates: the same prompt on every day, and arguments."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer

from spectr_runtime import RequestError
from spectr_runtime.rows.request import Chat
from spectr_runtime.rows.text.chat_template import ChatTemplate
from spectr_runtime.rows.text.tokenizer import Tokenizer

DATE = datetime.date(2024, 7, 26)
ASKED = ({"role": "user", "content": "Hi"},)
TODAY = "{{ strftime_now('%d %b %Y') }}"


def written(template: Any, name: str | None = None, **arguments: object) -> str:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return ChatTemplate(tokenizer, DATE).render(Chat(ASKED, arguments, name))


def error_of(template: Any, name: str | None = None, **arguments: object) -> RequestError:
    with pytest.raises(RequestError) as caught:
        written(template, name, **arguments)
    return caught.value


def refusal(template: Any, **arguments: object) -> tuple[str, str | None]:
    error = error_of(template, **arguments)
    return error.message, error.param


def test_a_template_that_asks_for_the_time_is_told_midnight_of_the_date() -> None:
    assert written("{{ strftime_now('%Y-%m-%d %H:%M:%S.%f') }}") == "2024-07-26 00:00:00.000000"


def test_each_tokenizer_keeps_its_own_date() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TODAY
    first, second = ChatTemplate(tokenizer, DATE), ChatTemplate(tokenizer, datetime.date(2025, 1, 2))
    for _ in range(2):
        assert first.render(Chat(ASKED)) == "26 Jul 2024"
        assert second.render(Chat(ASKED)) == "02 Jan 2025"


def test_other_users_of_transformers_keep_the_clock() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = "{{ strftime_now('%Y') }}{{ [7] | random }}"
    clock = tokenizer.apply_chat_template(list(ASKED), tokenize=False)
    assert refusal(tokenizer.chat_template)[1] == "messages"
    assert tokenizer.apply_chat_template(list(ASKED), tokenize=False) == clock != "20247"


def test_the_date_is_an_argument_of_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TODAY
    tokenizer.save_pretrained(tmp_path)
    text = Tokenizer(tmp_path, len(tokenizer), DATE)
    assert text.decode(text.encode(Chat(ASKED))) == "26 Jul 2024"


@pytest.mark.parametrize(
    "template",
    [
        "\n{% if true %}x\n{% endif %}\n",
        "  {% if true %}x{% endif %}  \n",
        "{#- comment -#}\n x\n\n",
        "{%- for message in messages %}\n  {{ message.content }}\n{%- endfor %}\n",
    ],
)
def test_a_template_is_read_as_transformers_reads_it(template: str) -> None:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    assert written(template) == tokenizer.apply_chat_template(list(ASKED), tokenize=False)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{{ [1, 2] | random }}", "random"),
        ("{{ messages | map('random') | list }}", "random"),
        ("{{ lipsum(1) }}", "lipsum"),
    ],
)
def test_a_template_that_draws_at_random_is_refused(template: str, name: str) -> None:
    told = f"The chat template refused the messages: it uses `{name}`, which gives another text each time."
    assert refusal(template) == (told, "messages")


def test_arguments_are_variables_of_the_template() -> None:
    template = "{{ enable_thinking }} {{ add_generation_prompt }} {{ bos_token is defined }}"
    assert written(template) == " True False"
    assert written(template, enable_thinking=False, add_generation_prompt=False, bos_token="b") == "False False True"


def test_a_template_that_refuses_says_why() -> None:
    told = "The chat template refused the messages: thinking is 'deep'."
    template = "{% if thinking == 'deep' %}{{ raise_exception(\"thinking is 'deep'\") }}{% endif %}"
    assert refusal(template, thinking="deep") == (told, "messages")


@pytest.mark.parametrize("name", ["tokenize", "chat_template", "continue_final_message", "conversation", "padding"])
def test_an_argument_that_is_no_variable_is_refused(name: str) -> None:
    told = (
        f"The argument {name!r} of the chat template is none of its variables; transformers has a use of its own for "
        "that name."
    )
    assert refusal("x", **{name: "x"}) == (told, "chat_template_kwargs")


def test_a_conversation_is_written_by_the_template_that_it_names_or_by_the_default() -> None:
    named = {"default": "plain", "tool_use": "{{ tools[0].name if tools else 'none' }}"}
    search = [{"name": "search"}]
    assert written(named) == written(named, "default") == written(named, tools=search) == "plain"
    assert written(named, "tool_use") == "none"
    assert written(named, "tool_use", tools=search) == "search"


def test_a_template_without_a_name_is_the_default() -> None:
    assert written("plain", "default") == "plain"


def test_a_named_template_has_the_date_and_the_arguments() -> None:
    named = {"default": "plain", "dated": f"{TODAY} {{{{ style }}}}"}
    assert written(named, "dated", style="short") == "26 Jul 2024 short"


@pytest.mark.parametrize(
    ("name", "message", "code"),
    [
        ("rag", "The tokenizer has no chat template 'rag'; it has 'loud' and 'tool_use'.", "invalid_value"),
        (
            None,
            "The tokenizer has no chat template 'default'; it has 'loud' and 'tool_use'.",
            "missing_required_parameter",
        ),
    ],
)
def test_a_name_that_no_template_has_is_refused_with_those_that_there_are(
    name: str | None, message: str, code: str
) -> None:
    error = error_of({"tool_use": "x", "loud": "y"}, name)
    assert (error.message, error.param, error.code) == (message, "chat_template", code)
    assert error.hint == 'Name one of them, as in "chat_template": "loud".'


@pytest.mark.parametrize("template", [None, "", {}, 3])
def test_a_tokenizer_without_a_template_takes_no_messages(template: Any) -> None:
    for name in (None, "default"):
        error = error_of(template, name)
        assert error.message == "The tokenizer has no chat template, so messages cannot be written out as a prompt."
        assert (error.param, error.code) == ("messages", "no_chat_template")


@pytest.mark.parametrize(
    ("template", "told"),
    [
        ("a\n\n{{ }}", "line 3: Expected an expression, got 'end of print statement'"),
        ("{{ 1 | shout }}", "line 1: No filter named 'shout'"),
        ("{% for a in b %}" * 30 + "{% endfor %}" * 30, "too many statically nested blocks"),
    ],
)
def test_a_template_that_does_not_compile_is_told_with_its_line(template: str, told: str) -> None:
    error = error_of(template)
    assert error.message.startswith(f"The chat template does not compile ({told}")
    assert (error.param, error.code) == ("messages", "no_chat_template")
