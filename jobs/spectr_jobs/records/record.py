"""A record: one line of input, read and checked.

A record has one of two shapes, that is, forms of its JSON object. The openai shape is a line of OpenAI's Batch API; the
simple shape is a prompt with its sampling fields, and all other fields are carried into the row, but for those whose
names are meant for a field of ours:

    {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Once", "max_tokens": 9}}
    {"id": "a", "prompt": "Once", "max_tokens": 9, "author": "carried into the row"}
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from spectr_jobs.records import fields, names, prompts, template
from spectr_jobs.records.line import load
from spectr_jobs.records.wanted import Wanted, read_wanted
from spectr_runtime.errors import RequestError
from spectr_runtime.rows.request import Chat, Prompt, Request, SamplingParams

Shape = Literal["openai", "simple"]
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
PROMPTS = ("prompt", "messages", "token_ids")
# Fields of a body that are accepted, since they do not change the completions.
HARMLESS = frozenset(
    {
        "cache_salt",
        "metadata",
        "model",
        "parallel_tool_calls",
        "prediction",
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# Fields that only the row of a simple record may have; and ``custom_id``, which only the row of an openai record has.
RESERVED = frozenset({"text", "completions", "finish_reason", "usage", "speculation", "error", "custom_id"})
FIELDS = fields.SAMPLING.keys() | fields.UNSUPPORTED.keys() | template.FIELDS
_KNOWN = FIELDS | RESERVED | {"id", *PROMPTS}
_FOLDED = {names.folded(name): name for name in FIELDS | {"id", *PROMPTS}}
_BODY = FIELDS | HARMLESS
_ID = fields.Check(
    lambda value: (isinstance(value, str) and value != "") or fields.is_integer(value), "a text or an integer"
)


@dataclasses.dataclass(frozen=True, slots=True)
class Origin:
    """Where a record comes from, and what its row repeats of it.

    Attributes:
        location: ``file:line``, for messages.
        shape: Shape of the record, and therefore of its row.
        id: The id as it stands in the record; the location, if the record has no valid id.
        url: Endpoint of an openai record, without a host.
        model: Model name of an openai record.
        carried: Fields of a simple record that are copied to its row.
    """

    location: str
    shape: Shape
    id: str | int
    url: str | None = None
    model: str | None = None
    carried: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def key(self) -> str:
        """The id as a text, by which the decoder and the run directory know the record."""
        return str(self.id)


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """A record that can be decoded.

    Attributes:
        origin: Where the record comes from.
        prompts: The prompts of the record.
        wanted: What the record asks for, apart from the prompts.
    """

    origin: Origin
    prompts: tuple[Prompt, ...]
    wanted: Wanted

    @property
    def size(self) -> int:
        """Number of completions in the record's row."""
        return len(self.prompts) * self.wanted.n

    @property
    def requests(self) -> Iterator[Request]:
        """Yield the requests of the record, prompt by prompt, numbered as the API numbers its choices."""
        wanted = self.wanted
        for index, prompt in enumerate(self.prompts):
            for sample in range(wanted.n):
                choice = index * wanted.n + sample
                yield Request(self.origin.key, prompt, wanted.params, choice, sample, wanted.echo, wanted.draft)


@dataclasses.dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be decoded, and the error that says why."""

    origin: Origin
    error: RequestError


def detect(value: Mapping[str, Any]) -> Shape | None:
    """Return the shape of a record, or None if it has none of the fields that tell the shapes apart."""
    if any(name in value for name in PROMPTS):
        return "simple"
    return "openai" if "body" in value or "custom_id" in value else None


NOTHING: Mapping[str, Any] = {}


def parse(
    line: bytes, location: str, shape: Shape, defaults: SamplingParams, around: Mapping[str, Any] = NOTHING
) -> Record | BadRecord:
    """Read and check one line.

    Args:
        line: The line without its newline.
        location: ``file:line``, which begins every message, and is the id of a record that has none.
        shape: The shape of a record whose own shape cannot be detected.
        defaults: Sampling parameters of records that do not set their own.
        around: Fields that a simple record carries besides its own, which come first; those with names of ours are
            left out.
    """
    origin = Origin(location, shape, location)
    try:
        value = load(line)
        origin = _origin(value, location, detect(value) or shape, around)
        found, wanted = _read_openai(value, defaults) if origin.shape == "openai" else _read_simple(value, defaults)
        _check_echo(found, wanted)
    except RequestError as error:
        return BadRecord(origin, located(error, location))
    return Record(origin, found, wanted)


def located(error: RequestError, location: str) -> RequestError:
    """Return the same error with the record's location in front of its message."""
    return type(error)(f"{location}: {error.message}", param=error.param, code=error.code, hint=error.hint)


def _origin(value: Mapping[str, Any], location: str, shape: Shape, around: Mapping[str, Any]) -> Origin:
    """Return the origin of a record that may be malformed; fields that are not valid are left out."""
    if shape == "openai":
        body = value.get("body")
        model = body.get("model") if isinstance(body, dict) else None
        custom_id, url = value.get("custom_id"), value.get("url")
        return Origin(
            location,
            shape,
            id=custom_id if isinstance(custom_id, str) and custom_id else location,
            url=endpoint_of(url),
            model=model if isinstance(model, str) else None,
        )
    given = value.get("id")
    return Origin(
        location,
        shape,
        id=given if given is not None and _ID.accepts(given) else location,
        carried={name: item for name, item in {**around, **value}.items() if name not in _KNOWN},
    )


def _read_simple(value: Mapping[str, Any], defaults: SamplingParams) -> tuple[tuple[Prompt, ...], Wanted]:
    if value.get("id") is not None:
        fields.require("id", value["id"], _ID)
    for name, item in value.items():
        if name in RESERVED:
            raise fields.refusal(name, item, "another name; the output line has this one for itself", "reserved_field")
        if name not in _KNOWN and item not in prompts.IDLE and (right := field_meant(name)):
            raise fields.refusal(name, item, right, "unsupported_parameter")
    return _read_prompts(value, PROMPTS), read_wanted(value, defaults)


@functools.lru_cache(1024)  # the same columns come with every record
def field_meant(name: str) -> str | None:
    """Return, in words for a message, the field that an unknown name is meant for; None for an ordinary name."""
    right = names.meant(name, _FOLDED)
    return right if right in (None, names.TOP) else f"{right}, as spectr calls this field"


def _read_prompts(value: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Prompt, ...]:
    given = [name for name in names if value.get(name) is not None]
    if not given:
        raise fields.missing(names[0], f"a non-empty {' or '.join(names)}")
    if len(given) > 1:
        raise fields.refusal(given[1], value[given[1]], f"either {' or '.join(given)}, not both")
    found = _read_prompt(given[0], value)
    template.check_prompts(value, found)
    return found


def _read_prompt(name: str, value: Mapping[str, Any]) -> tuple[Prompt, ...]:
    if name == "messages":
        return (prompts.read_messages(value[name], template.read_arguments(value), template.read_name(value)),)
    return (prompts.read_token_ids(value[name]),) if name == "token_ids" else prompts.read_prompts(value[name])


def _check_echo(found: tuple[Prompt, ...], wanted: Wanted) -> None:
    if wanted.echo and any(isinstance(prompt, Chat) for prompt in found):
        raise fields.refusal("echo", True, "false beside messages")


def _read_openai(value: Mapping[str, Any], defaults: SamplingParams) -> tuple[tuple[Prompt, ...], Wanted]:
    body, endpoint = _read_envelope(value)
    prompt, logprobs = ("messages", fields.BOOLEAN) if endpoint == CHAT else ("prompt", fields.TOP_LOGPROBS)
    asked = body.get("logprobs")
    if asked is not None and asked is not False:
        fields.require("logprobs", asked, logprobs)
    for name, item in body.items():
        if name not in _BODY and name != prompt and item is not None:
            hint = f" Did you mean {prompt}?" if name in PROMPTS else names.hint(name, (*_BODY, prompt))
            raise RequestError(
                f"{name}: got {fields.shown(item)}, allowed no such field at {endpoint}.{hint}",
                param=name,
                code="unsupported_parameter",
            )
    return _read_prompts(body, (prompt,)), read_wanted(body, defaults)


def _read_envelope(value: Mapping[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the body of an openai record, and the endpoint that it is meant for."""
    for name, check in ENVELOPE.items():
        if value.get(name) is None:
            raise fields.missing(name, check.allowed)
        fields.require(name, value[name], check)
    for name in value.keys() - ENVELOPE.keys():
        raise fields.refusal(name, value[name], f"nothing beside {', '.join(ENVELOPE)}", "unsupported_parameter")
    body, endpoint = value["body"], endpoint_of(value["url"])
    assert isinstance(body, dict)
    assert endpoint is not None
    return body, endpoint


def endpoint_of(url: object) -> str | None:
    """Return the endpoint that a URL names, or None if it names none.

    The API's own host and a slash at the end, with which some libraries write it, do not change what is asked for.
    """
    path = _HOST.sub("", url).removesuffix("/") if isinstance(url, str) else None
    return path if path in (COMPLETIONS, CHAT) else None


_HOST = re.compile("^https?://[^/?#]+")
ENVELOPE: Mapping[str, fields.Check] = {
    "custom_id": fields.Check(lambda value: isinstance(value, str) and value != "", "a non-empty text"),
    "method": fields.Check(lambda value: isinstance(value, str) and value.upper() == "POST", '"POST"'),
    "url": fields.Check(lambda value: endpoint_of(value) is not None, f'"{COMPLETIONS}" or "{CHAT}"'),
    "body": fields.Check(lambda value: isinstance(value, dict), "an object"),
}
