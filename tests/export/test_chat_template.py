"""Chat templates are tried at the build, and what fails there is told in a line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import byte_tokenizer, save_pair

from spectr_export.build import build
from spectr_export.original.tokens.chat_template import try_templates
from spectr_export.original.tokens.tokenizer import load_tokenizer, refuse_changed_by_saving
from spectr_export.preparation import BuildOptions
from spectr_runtime import Bundle, BundleError, Chat
from spectr_runtime.rows.text.tokenizer import Tokenizer

SOUND = "{% for message in messages %}{{ message.content }}{% endfor %}"
BROKEN = "{% for message in messages %}\n{{ message.content }}\n{% endif %}"
STRICT = "{% if messages[0].role != 'system' %}{{ raise_exception('The first role is system.\nAlways.') }}{% endif %}"


def lines(template: Any) -> list[str]:
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    return list(try_templates(tokenizer))


@pytest.mark.parametrize("template", [None, "", SOUND, {"default": SOUND}, "{{ strftime_now('%Y') }}"])
def test_nothing_is_said_of_a_template_that_writes_a_message_or_of_none(template: Any) -> None:
    assert lines(template) == []


@pytest.mark.parametrize(
    ("template", "told"),
    [
        (
            BROKEN,
            "does not compile (line 3: Encountered unknown tag 'endif'. Jinja was looking for the following tags: "
            "'endfor' or 'else'. The innermost block that needs to be closed is 'for'): records with messages will "
            "fail",
        ),
        (
            "{{ messages | shout }}",
            "does not compile (line 1: No filter named 'shout'): records with messages will fail",
        ),
        (STRICT, "refuses one message of a user (The first role is system); records like it will fail"),
        (
            "{{ messages[1].content }}",
            "refuses one message of a user (list object has no element 1); records like it will fail",
        ),
        (
            "{{ [1] | random }}",
            "refuses one message of a user (it uses `random`, which gives another text each time); records like it "
            "will fail",
        ),
    ],
)
def test_a_template_that_fails_is_told(template: str, told: str) -> None:
    assert lines(template) == [f"target: its chat template {told}"]


def test_templates_with_names_are_told_with_what_records_must_say() -> None:
    assert lines({"default": SOUND, "tool_use": SOUND, "rag": SOUND}) == [
        'target: chat templates default, tool_use, rag: records have default, or another with "chat_template": "rag"'
    ]
    assert lines({"tool_use": SOUND, "rag": SOUND}) == [
        "target: chat templates tool_use, rag: none is default, so records with messages must name one, as with "
        '"chat_template": "rag"'
    ]


def test_of_several_templates_the_one_that_fails_is_named() -> None:
    first, second, third = lines({"default": SOUND, "tool_use": "{{ tools[", "rag": STRICT})
    assert first.startswith("target: its chat template 'tool_use' does not compile (line 1: ")
    assert first.endswith("): records with messages that have it will fail")
    assert second == (
        "target: its chat template 'rag' refuses one message of a user (The first role is system); records like it "
        "will fail"
    )
    assert third.startswith("target: chat templates default, tool_use, rag: ")


def name_templates(folder: Path, *templates: tuple[str, str]) -> None:
    """Give a tokenizer templates in its settings."""
    named = [{"name": name, "template": template} for name, template in templates]
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))


def test_named_templates_reach_the_bundle(tmp_path: Path) -> None:
    target, draft = save_pair(tmp_path)
    name_templates(target, ("default", SOUND), ("loud", "LOUD"))
    said: list[str] = []
    build(BuildOptions(str(target), str(draft)), tmp_path / "bundle", say=said.append)
    assert 'target: chat templates default, loud: records have default, or another with "chat_template": "loud"' in said
    bundle = Bundle.open(tmp_path / "bundle")
    text = Tokenizer(bundle.tokenizer, bundle.manifest.vocabulary.size)
    asked = ({"role": "user", "content": "Hi"},)
    written = [text.decode(text.encode(Chat(asked, template=name))) for name in (None, "default", "loud")]
    assert written == ["Hi", "Hi", "LOUD"]


def test_templates_in_files_are_tried_too(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(SOUND)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "rag.jinja").write_text("{%")
    tokenizer = load_tokenizer(tmp_path, print)
    refuse_changed_by_saving(tokenizer)
    (line, _) = try_templates(tokenizer)
    assert line.startswith("target: its chat template 'rag' does not compile (line 1: ")


def test_a_template_whose_name_cannot_be_a_files_is_refused(tmp_path: Path) -> None:
    byte_tokenizer().save_pretrained(tmp_path)
    name_templates(tmp_path, ("../up", SOUND))
    with pytest.raises(BundleError) as caught:
        refuse_changed_by_saving(load_tokenizer(tmp_path, print))
    assert caught.value.message == (
        "transformers cannot save the tokenizer to the bundle: Invalid chat template name: '../up'"
    )
