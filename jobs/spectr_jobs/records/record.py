"""A record: one line of input, read and checked.

A record has one of two shapes, that is, forms of its JSON object. The openai shape is a line of OpenAI's Batch API; the
simple shape is a prompt with its sampling fields, and all other fields are carried into the row:

    {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": {"prompt": "Once", "max_tokens": 9}}
    {"id": "a", "prompt": "Once", "max_tokens": 9, "author": "carried into the row"}
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from spectr_jobs.records import fields, prompts
from spectr_jobs.records.fields import Wanted
from spectr_runtime.errors import RequestError
from spectr_runtime.rows.request import Prompt, Request, SamplingParams

Shape = Literal["openai", "simple"]
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
PROMPTS = ("prompt", "messages", "token_ids")
# Fields of a body that are accepted, since they do not change the completions.
HARMLESS = frozenset(
    {
        "metadata",
        "model",
        "parallel_tool_calls",
        "prompt_cache_key",
        "safety_identifier",
        "service_tier",
        "store",
        "user",
    }
)
# Fields that only the row of a simple record may have; and ``custom_id``, which only the row of an openai record has.
RESERVED = frozenset({"text", "completions", "finish_reason", "usage", "speculation", "error", "custom_id"})
_KNOWN = fields.SAMPLING.keys() | fields.UNSUPPORTED.keys() | RESERVED | {"id", *PROMPTS}
_BODY = fields.SAMPLING.keys() | fields.UNSUPPORTED.keys() | HARMLESS
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
        url: Endpoint of an openai record.
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
        for index, prompt in enumerate(self.prompts):
            for sample in range(self.wanted.n):
                choice = index * self.wanted.n + sample
                yield Request(self.origin.key, prompt, self.wanted.params, choice)


@dataclasses.dataclass(frozen=True, slots=True)
class BadRecord:
    """A record that cannot be decoded, and the error that says why."""

    origin: Origin
    error: RequestError


def load(line: bytes) -> dict[str, Any]:
    """Parse one line of JSON Lines.

    Raises:
        RequestError: The line is not UTF-8, not JSON or not an object, or holds something that a row could not repeat.
    """
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
        if b"\\u" in line:  # an escape may be half of a surrogate pair, which UTF-8 cannot encode
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        raise RequestError(
            f"line: got bytes that are not UTF-8 ({error.reason} at byte {error.start}), allowed UTF-8.",
            code="invalid_encoding",
        ) from error
    except UnicodeEncodeError as error:
        raise RequestError(
            "line: got half of a surrogate pair (\\ud800-\\udfff), allowed whole characters.", code="invalid_encoding"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RequestError(f"line: got {error}, allowed one JSON object per line.", code="invalid_json") from error
    if not isinstance(value, dict):
        raise RequestError(f"line: got {fields.shown(value)}, allowed one JSON object per line.", code="invalid_json")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name}, which JSON does not know")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text}, a number out of range")
    return value


def detect(value: Mapping[str, Any]) -> Shape | None:
    """Return the shape of a record, or None if it has none of the fields that tell the shapes apart."""
    if any(name in value for name in PROMPTS):
        return "simple"
    return "openai" if "body" in value or "custom_id" in value else None


def parse(line: bytes, location: str, shape: Shape, defaults: SamplingParams) -> Record | BadRecord:
    """Read and check one line.

    Args:
        line: The line without its newline.
        location: ``file:line``, which begins every message, and is the id of a record that has none.
        shape: The shape of a record whose own shape cannot be detected.
        defaults: Sampling parameters of records that do not set their own.
    """
    origin = Origin(location, shape, location)
    try:
        value = load(line)
        origin = _origin(value, location, detect(value) or shape)
        found, wanted = _read_openai(value, defaults) if origin.shape == "openai" else _read_simple(value, defaults)
        _check_echo(found, wanted)
    except RequestError as error:
        return BadRecord(origin, located(error, location))
    return Record(origin, found, wanted)


def located(error: RequestError, location: str) -> RequestError:
    """Return the same error with the record's location in front of its message."""
    return type(error)(f"{location}: {error.message}", param=error.param, code=error.code, hint=error.hint)


def _origin(value: Mapping[str, Any], location: str, shape: Shape) -> Origin:
    """Return the origin of a record that may be malformed; fields that are not valid are left out."""
    if shape == "openai":
        body = value.get("body")
        model = body.get("model") if isinstance(body, dict) else None
        custom_id, url = value.get("custom_id"), value.get("url")
        return Origin(
            location,
            shape,
            id=custom_id if isinstance(custom_id, str) and custom_id else location,
            url=url if isinstance(url, str) else None,
            model=model if isinstance(model, str) else None,
        )
    given = value.get("id")
    return Origin(
        location,
        shape,
        id=given if given is not None and _ID.accepts(given) else location,
        carried={name: item for name, item in value.items() if name not in _KNOWN},
    )


def _read_simple(value: Mapping[str, Any], defaults: SamplingParams) -> tuple[tuple[Prompt, ...], Wanted]:
    if value.get("id") is not None:
        fields.require("id", value["id"], _ID)
    for name in RESERVED & value.keys():
        raise fields.refusal(
            name, value[name], "another name; the output line has this one for itself", "reserved_field"
        )
    return _read_prompts(value, PROMPTS), fields.read_wanted(value, defaults)


def _read_prompts(value: Mapping[str, Any], names: tuple[str, ...]) -> tuple[Prompt, ...]:
    given = [name for name in names if value.get(name) is not None]
    if not given:
        raise fields.missing(names[0], f"a non-empty {' or '.join(names)}")
    if len(given) > 1:
        raise fields.refusal(given[1], value[given[1]], f"either {' or '.join(given)}, not both")
    name = given[0]
    if name == "messages":
        return (prompts.read_messages(value[name]),)
    return (prompts.read_token_ids(value[name]),) if name == "token_ids" else prompts.read_prompts(value[name])


def _check_echo(found: tuple[Prompt, ...], wanted: Wanted) -> None:
    if not wanted.echo:
        return
    if not all(isinstance(prompt, str) for prompt in found):
        raise fields.refusal("echo", True, "true only beside a prompt that is text")
    if wanted.params.logprobs is not None:
        raise fields.refusal(
            "echo", True, "false beside logprobs: the prompt's tokens are not scored", "unsupported_parameter"
        )


def _read_openai(value: Mapping[str, Any], defaults: SamplingParams) -> tuple[tuple[Prompt, ...], Wanted]:
    body = _read_envelope(value)
    prompt, logprobs = ("messages", fields.BOOLEAN) if value["url"] == CHAT else ("prompt", fields.TOP_LOGPROBS)
    asked = body.get("logprobs")
    if asked is not None and asked is not False:
        fields.require("logprobs", asked, logprobs)
    for name, item in body.items():
        if name not in _BODY and name != prompt and item is not None:
            hint = fields.nearest(name, (*_BODY, prompt))
            raise RequestError(
                f"{name}: got {fields.shown(item)}, allowed no such field at {value['url']}.{hint}",
                param=name,
                code="unsupported_parameter",
            )
    return _read_prompts(body, (prompt,)), fields.read_wanted(body, defaults)


def _read_envelope(value: Mapping[str, Any]) -> dict[str, Any]:
    for name, check in _ENVELOPE.items():
        if value.get(name) is None:
            raise fields.missing(name, check.allowed)
        fields.require(name, value[name], check)
    for name in value.keys() - _ENVELOPE.keys():
        raise fields.refusal(name, value[name], f"{', '.join(_ENVELOPE)}", "unsupported_parameter")
    body = value["body"]
    assert isinstance(body, dict)
    return body


_ENVELOPE: Mapping[str, fields.Check] = {
    "custom_id": fields.Check(lambda value: isinstance(value, str) and value != "", "a non-empty text"),
    "method": fields.Check(lambda value: value == "POST", '"POST"'),
    "url": fields.Check(lambda value: value in (COMPLETIONS, CHAT), f'"{COMPLETIONS}" or "{CHAT}"'),
    "body": fields.Check(lambda value: isinstance(value, dict), "an object"),
}
