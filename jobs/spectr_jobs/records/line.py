"""A line of JSON Lines: one JSON object in UTF-8, nested to a limited depth, that a row can repeat."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

from spectr_jobs.records.fields import SHOWN, shown
from spectr_runtime.errors import RequestError

OBJECT = "one JSON object per line"
DEPTH = 128  # levels of lists and objects in a record
_TEXT = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"?', re.DOTALL)
_NO_BRACKETS = bytes({*range(256)} - {*b"[]{}"})


def load(line: bytes) -> dict[str, Any]:
    """Parse one line of JSON Lines.

    Raises:
        RequestError: The line is not UTF-8, not JSON or not an object, is nested too deeply, or holds something that a
            row could not repeat.
    """
    if nested_too_deeply(line):
        raise _unreadable(f"JSON that is nested more than {DEPTH} levels deep", f"at most {DEPTH} levels")
    try:
        value = json.loads(line.decode("utf-8"), parse_constant=_refuse_constant, parse_float=_finite)
        if b"\\u" in line:  # an escape may be half of a surrogate pair, which UTF-8 cannot encode
            json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeDecodeError as error:
        got = f"bytes that are not UTF-8 ({error.reason} at byte {error.start})"
        raise _unreadable(got, "UTF-8", "invalid_encoding") from error
    except UnicodeEncodeError as error:
        got = "half of a surrogate pair (\\ud800-\\udfff)"
        raise _unreadable(got, "whole characters", "invalid_encoding") from error
    except json.JSONDecodeError as error:
        raise _unreadable(_broken(error), OBJECT) from error
    except ValueError as error:  # what else Python refuses: an integer of thousands of digits
        raise _unreadable("a number of too many digits", OBJECT) from error
    if not isinstance(value, dict):
        raise _unreadable(shown(value), OBJECT)
    return value


def nested_too_deeply(text: bytes) -> bool:
    """Return whether JSON is nested more than ``DEPTH`` levels deep; of broken JSON, whether its brackets are.

    The limit is far below Python's own, which depends on who calls. So whoever reads a record finds the same.
    """
    if text.count(b"[") + text.count(b"{") <= DEPTH:
        return False
    brackets = _TEXT.sub(b"", text).translate(None, _NO_BRACKETS)
    return max(itertools.accumulate(1 if bracket in b"[{" else -1 for bracket in brackets), default=0) > DEPTH


def _broken(error: json.JSONDecodeError) -> str:
    """Say where JSON is broken, what stands there, and what is wrong with it."""
    rest = error.doc[error.pos : error.pos + SHOWN]
    where = f"at character {error.pos + 1}, {shown(rest)}" if rest else "at its end"
    what = error.msg[:1].lower() + error.msg[1:].removesuffix(" at").rstrip(": ")
    return f"broken JSON {where} ({what})"


def _unreadable(got: str, allowed: str, code: str = "invalid_json") -> RequestError:
    return RequestError(f"line: got {got}, allowed {allowed}.", code=code)


def _refuse_constant(name: str) -> float:
    raise _unreadable(f"{name}, which JSON does not know", OBJECT)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise _unreadable(f"{text}, a number out of range", OBJECT)
    return value
