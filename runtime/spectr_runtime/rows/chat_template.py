"""Conversations, written out as prompts by the tokenizer's chat template."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from jinja2 import TemplateError
from transformers.utils.chat_template_utils import _compile_jinja_template

from spectr_runtime.errors import RequestError
from spectr_runtime.rows.request import Chat

# Arguments of `apply_chat_template` that templates see as variables; its others say what is done with the text.
VARIABLES = {"add_generation_prompt", "documents", "tools"}


class ChatTemplate:
    """The chat template of a tokenizer, as a function of a conversation and a date.

    Templates are programs. Those that ask for the time are told midnight of the date, and those that draw at random are
    refused, so that a record gives the same prompt whenever it is read.

    Args:
        tokenizer: A tokenizer of transformers.
        date: The day that templates see.
    """

    def __init__(self, tokenizer: Any, date: datetime.date) -> None:
        self._tokenizer = tokenizer
        self._date = date
        self._own = set(inspect.signature(tokenizer.apply_chat_template).parameters) - VARIABLES - {"kwargs"}

    def render(self, chat: Chat) -> str:
        """Return a conversation as the template writes it.

        Raises:
            RequestError: There is no template, it refuses the messages, or an argument is no variable of templates.
        """
        if not self._tokenizer.chat_template:
            raise RequestError(
                "The tokenizer has no chat template, so messages cannot be written out as a prompt.",
                param="messages",
                code="no_chat_template",
                hint="Give `prompt` instead, or build the bundle from a model whose tokenizer has a chat template.",
            )
        self._check(chat.arguments)
        variables = {"add_generation_prompt": True, **chat.arguments}
        messages = [dict(message) for message in chat.messages]
        try:
            template = self._dated(self._tokenizer.get_chat_template(tools=variables.get("tools")))
            return str(
                self._tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **variables)
            )
        except Exception as error:  # a template is a program and may raise anything
            raise RequestError(f"The chat template refused the messages: {error}.", param="messages") from error

    def _check(self, arguments: Mapping[str, object]) -> None:
        if refused := sorted(self._own & arguments.keys()):
            raise RequestError(
                f"The argument {refused[0]!r} of the chat template is none of its variables; transformers has a use of "
                "its own for that name.",
                param="chat_template_kwargs",
                hint="Leave it out.",
            )

    def _dated(self, template: str) -> str:
        """Return a template that says the same, and for which transformers' functions of time and chance are replaced.

        transformers keeps compiled templates by their texts. A comment with the date makes this one ours, so that
        neither a tokenizer with another date nor other users of transformers in this process share it. The line break
        after a comment is no part of a template's text.
        """
        ours = f"{{#{self._date}#}}\n{template}"
        environment = _compile_jinja_template(ours).environment
        environment.globals |= {"strftime_now": self._now, "lipsum": _refuse("lipsum")}
        environment.filters["random"] = _refuse("random")
        return ours

    def _now(self, format: str) -> str:
        return datetime.datetime.combine(self._date, datetime.time()).strftime(format)


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise TemplateError(f"it uses `{name}`, which gives another text each time")

    return refuse
