"""Tries the chat templates of a tokenizer as a run uses them, so that what fails there is told at the build.

Nothing here refuses a model: prompts and token ids need no template, and a template that refuses one conversation may
take another.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

from spectr_runtime.errors import RequestError, first_line
from spectr_runtime.rows.request import Chat
from spectr_runtime.rows.text.chat_template import DEFAULT, ChatTemplate

MESSAGE = {"role": "user", "content": "Hello"}


def try_templates(tokenizer: Any) -> Iterator[str]:
    """Yield a line for every template that writes out no message, and one for the names if templates have names.

    Args:
        tokenizer: The target's tokenizer.
    """
    chats = ChatTemplate(tokenizer, datetime.date.today())
    for name in chats.templates:
        try:
            chats.render(Chat((MESSAGE,), template=name))
        except RequestError as error:
            yield f"target: {_failure(error, name, alone=len(chats.templates) == 1)}"
    if chats.templates.keys() - {DEFAULT}:
        yield f"target: chat templates {', '.join(chats.templates)}: {_use(chats)}"


def _failure(error: RequestError, name: str, *, alone: bool) -> str:
    """Return in words what is wrong with a template, and which records it fails."""
    template = "its chat template" if alone else f"its chat template {name!r}"
    if error.code == "no_chat_template":
        told = error.message.removeprefix("The chat template ").removesuffix(".")
        return f"{template} {told}: records with messages {'' if alone else 'that have it '}will fail"
    told = first_line(error.__cause__ or error).removesuffix(".")
    return f"{template} refuses one message of a user ({told}); records like it will fail"


def _use(chats: ChatTemplate) -> str:
    """Return in words what records say to have one of several templates."""
    other = min(chats.templates.keys() - {DEFAULT})
    if DEFAULT in chats.templates:
        return f'records have {DEFAULT}, or another with "chat_template": "{other}"'
    return f'none is {DEFAULT}, so records with messages must name one, as with "chat_template": "{other}"'
