"""What a record says to the chat template, beside the messages of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from spectr_jobs.records import fields
from spectr_jobs.records.fields import BOOLEAN, Check
from spectr_runtime.rows.request import Chat, Prompt

KWARGS = "chat_template_kwargs"
# Two arguments that have fields of their own too. They stand there, or among the arguments, or in both places alike.
SHORT: Mapping[str, Check] = {
    "reasoning_effort": Check(fields.is_text, "a non-empty text"),
    "enable_thinking": BOOLEAN,
}
ARGUMENTS: Mapping[str, Check] = {KWARGS: Check(lambda value: isinstance(value, dict), "an object"), **SHORT}
NAME = "chat_template"
NAMED = Check(fields.is_text, "the name of one of the bundle's chat templates")
SPECIAL_TOKENS = "add_special_tokens"
FIELDS = frozenset({*ARGUMENTS, NAME, SPECIAL_TOKENS})
TEXTS = (NAME, "reasoning_effort")  # those of them that are texts
# Arguments of ``apply_chat_template``, and names that every template has already.
TAKEN = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "max_length",
        "messages",
        "padding",
        "raise_exception",
        "return_assistant_tokens_mask",
        "return_dict",
        "return_tensors",
        "sanitize_control_tokens",
        "strftime_now",
        "tokenize",
        "tokenizer_kwargs",
        "tools",
        "truncation",
    }
)


def read_arguments(record: Mapping[str, object]) -> dict[str, object]:
    """Read the arguments of the chat template: those in ``chat_template_kwargs``, and those with fields of their own.

    Raises:
        RequestError: A field has the wrong type, two places disagree, or an argument is not one that a record may set.
    """
    given = {name: record[name] for name in ARGUMENTS if record.get(name) is not None}
    for name, value in given.items():
        fields.require(name, value, ARGUMENTS[name])
    own = given.pop(KWARGS, {})
    assert isinstance(own, dict)
    for name, value in own.items():
        _check_argument(name, value)
    arguments = {name: value for name, value in own.items() if value is not None or name not in SHORT}
    for name, value in given.items():
        if arguments.setdefault(name, value) != value:
            raise fields.refusal(name, value, f"{fields.shown(own[name])}, as {KWARGS} says, or one of the two")
    return arguments


def read_name(record: Mapping[str, object]) -> str | None:
    """Read the name of the chat template that writes out the conversation; None if the record leaves it open.

    Raises:
        RequestError: The field is not a name. A template itself is a program, and none is taken from a record.
    """
    name = record.get(NAME)
    if name is None:
        return None
    fields.require(NAME, name, NAMED)
    if "{" in str(name):
        raise fields.refusal(NAME, name, f"{NAMED.allowed}, not a template", "unsupported_parameter")
    return str(name)


def _check_argument(name: str, value: object) -> None:
    field = f"{KWARGS}.{name}"
    if name in TAKEN:
        raise fields.refusal(field, value, "arguments of other names: spectr sets this one", "unsupported_parameter")
    if name in SHORT and value is not None:
        fields.require(field, value, SHORT[name])


def check_prompts(record: Mapping[str, object], prompts: Sequence[Prompt]) -> None:
    """Check the fields that say how a prompt is written out against the prompts that there are.

    Raises:
        RequestError: There are arguments for a chat template and no conversation; or special tokens are asked for where
            spectr adds none, or not wanted where it does.
    """
    chat = any(isinstance(prompt, Chat) for prompt in prompts)
    for name in (*ARGUMENTS, NAME):
        if not chat and record.get(name) not in (None, {}):
            raise fields.refusal(name, record[name], "this field only beside messages")
    if (wanted := record.get(SPECIAL_TOKENS)) is None:
        return
    fields.require(SPECIAL_TOKENS, wanted, BOOLEAN)
    if chat and wanted:
        words = "false beside messages: the chat template writes them itself"
    elif not wanted and any(isinstance(prompt, str) for prompt in prompts):
        words = "true beside a text; token_ids give the tokens one by one"
    else:
        return
    raise fields.refusal(SPECIAL_TOKENS, wanted, words, "unsupported_parameter")
