"""The prompts of a record: texts, token ids, conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spectr_jobs.records import fields
from spectr_runtime.rows.request import Chat, Prompt

IDLE: tuple[object, ...] = (None, "", [], {})  # values that say nothing, in a field that is not understood


def read_prompts(value: object) -> tuple[Prompt, ...]:
    """Read the field ``prompt``: a text, a list of token ids, or a list of several texts or of several such lists.

    Raises:
        RequestError: The field is empty or of another type, or mixes texts and token ids.
    """
    several = isinstance(value, list) and any(isinstance(item, str | list) for item in value)
    found: list[Any] = value if isinstance(value, list) and several else [value]
    if not (all(map(fields.is_text, found)) or all(map(_are_tokens, found))):
        allowed = "a non-empty text, a non-empty list of token ids, or a list of several of either"
        raise fields.refusal("prompt", value, allowed)
    return tuple(item if isinstance(item, str) else tuple(item) for item in found)


def _are_tokens(value: object) -> bool:
    return isinstance(value, list) and value != [] and fields.list_of(fields.is_token)(value)


def read_token_ids(value: object) -> Prompt:
    """Read the field ``token_ids``: one prompt as token ids.

    Raises:
        RequestError: The field is not a non-empty list of token ids.
    """
    if not (isinstance(value, list) and _are_tokens(value)):
        raise fields.refusal("token_ids", value, "a non-empty list of token ids")
    return tuple(value)


def read_messages(value: object, arguments: Mapping[str, object], template: str | None) -> Chat:
    """Read the field ``messages``: a conversation. The text parts of a message are joined to one text.

    Args:
        value: The field's value.
        arguments: What else the chat template is given.
        template: Name of the chat template, if the record has one.

    Raises:
        RequestError: The field is empty or malformed, or contains tools, images or sound.
    """
    if not isinstance(value, list) or not value:
        raise fields.refusal("messages", value, "a non-empty list of messages")
    messages = tuple(_read_message(f"messages[{index}]", item) for index, item in enumerate(value))
    return Chat(messages, arguments, template)


def _read_message(name: str, value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise fields.refusal(name, value, 'an object like {"role": "user", "content": "..."}')
    if not fields.is_text(value.get("role")):
        raise fields.refusal(f"{name}.role", value.get("role"), "a non-empty text")
    beyond = [key for key, item in value.items() if key not in ("role", "content", "name") and item not in IDLE]
    if beyond:
        raise fields.refusal(f"{name}.{beyond[0]}", value[beyond[0]], "role, content and name", "unsupported_parameter")
    kept = {key: value[key] for key in ("role", "name") if value.get(key) is not None}
    return {**kept, "content": _read_content(f"{name}.content", value.get("content"))}


def _read_content(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise fields.refusal(name, value, "a text or a list of text parts")
    parts = []
    for part in value:
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise fields.refusal(name, part, 'parts like {"type": "text", "text": "..."}', "unsupported_parameter")
        parts.append(part["text"])
    return "".join(parts)
