"""Conversations, written out as prompts by the tokenizer's chat templates."""

from __future__ import annotations

import datetime
import inspect
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from jinja2 import TemplateError, TemplateSyntaxError
from transformers.utils.chat_template_utils import _compile_jinja_template

from spectr_runtime.errors import RequestError, first_line
from spectr_runtime.rows.request import Chat

# Arguments of `apply_chat_template` that templates see as variables; its others say what is done with the text.
VARIABLES = {"add_generation_prompt", "documents", "tools"}
DEFAULT = "default"  # the template of conversations that name none; a template without a name has this one


class ChatTemplate:
    """The chat templates of a tokenizer, as a function of a conversation and a date.

    A conversation is written out by the template that it names, or by the default. No other is ever chosen, not even
    the one called ``tool_use``: which one writes depends on nothing but the record and the names that there are.

    Templates are programs. Those that ask for the time are told midnight of the date, and those that draw at random are
    refused, so that a record gives the same prompt whenever it is read.

    Args:
        tokenizer: A tokenizer of transformers.
        date: The day that templates see.

    Attributes:
        templates: The templates by their names.
    """

    def __init__(self, tokenizer: Any, date: datetime.date) -> None:
        self._tokenizer = tokenizer
        self._date = date
        self.templates = _by_name(tokenizer.chat_template)
        self._own = set(inspect.signature(tokenizer.apply_chat_template).parameters) - VARIABLES - {"kwargs"}

    def render(self, chat: Chat) -> str:
        """Return a conversation as the template writes it.

        Raises:
            RequestError: There is no such template, or it does not compile or refuses the messages; or an argument is
                no variable of templates.
        """
        self._check(chat.arguments)
        template = self._dated(self._chosen(chat.template))
        variables = {"add_generation_prompt": True, **chat.arguments}
        messages = [dict(message) for message in chat.messages]
        try:
            return str(
                self._tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, **variables)
            )
        except Exception as error:  # a template is a program and may raise anything
            raise RequestError(f"The chat template refused the messages: {error}.", param="messages") from error

    def _chosen(self, name: str | None) -> str:
        """Return the template of a name, or the default without one."""
        if not self.templates:
            raise _no_template("The tokenizer has no chat template, so messages cannot be written out as a prompt.")
        if (name or DEFAULT) in self.templates:
            return self.templates[name or DEFAULT]
        known = " and ".join(map(repr, sorted(self.templates)))
        raise RequestError(
            f"The tokenizer has no chat template {name or DEFAULT!r}; it has {known}.",
            param="chat_template",
            code="invalid_value" if name else "missing_required_parameter",
            hint=f'Name one of them, as in "chat_template": "{min(self.templates)}".',
        )

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
        try:
            environment = _compile_jinja_template(ours).environment
        except Exception as error:  # what is no template may raise anything
            told = first_line(error)
            if isinstance(error, TemplateSyntaxError):
                told = f"line {error.lineno - 1}: {error.message}"  # without the line that is ours
            raise _no_template(f"The chat template does not compile ({told.removesuffix('.')}).") from error
        environment.globals |= {"strftime_now": self._now, "lipsum": _refuse("lipsum")}
        environment.filters["random"] = _refuse("random")
        return ours

    def _now(self, format: str) -> str:
        return datetime.datetime.combine(self._date, datetime.time()).strftime(format)


def _by_name(templates: object) -> Mapping[str, str]:
    """Return the templates of a tokenizer by their names: it has one without a name, several with names, or none."""
    if isinstance(templates, Mapping):
        return templates
    return {DEFAULT: templates} if isinstance(templates, str) and templates else {}


def _no_template(message: str) -> RequestError:
    hint = "Give `prompt` instead, or build the bundle from a model whose tokenizer has a chat template."
    return RequestError(message, param="messages", code="no_chat_template", hint=hint)


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(*_: object, **__: object) -> NoReturn:
        raise TemplateError(f"it uses `{name}`, which gives another text each time")

    return refuse
