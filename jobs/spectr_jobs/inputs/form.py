"""The form of a file: whether it is JSON Lines at all.

A file that is one JSON array, objects written over several lines, or objects without line ends between them would give
an error for every line. It gets one error that says what to do. One bad line in a file of good ones is not of this
kind, not even if it is the first one.
"""

from __future__ import annotations

import json

from spectr_jobs.errors import InputError
from spectr_jobs.inputs import sources
from spectr_jobs.inputs.sources import Source
from spectr_jobs.inputs.tables import is_table
from spectr_jobs.records.line import load, nested_too_deeply
from spectr_runtime.errors import RequestError

LOOKED_AT = 1 << 20  # bytes from the start of a file
_DECODER = json.JSONDecoder()


def require_lines(source: Source) -> None:
    """Check that a source that is no table is JSON Lines. Only a file whose first line is no record is looked into.

    Raises:
        InputError: The source holds records in another form; the hint says how to convert it.
    """
    lines = iter(()) if is_table(source.path) else sources.lines(source)
    first = next(lines, None)
    if first is None or _is_record(first.text):
        return
    head, size = [first.text], len(first.text)
    for line in lines:
        head.append(line.text)
        size += len(line.text)
        if size > LOOKED_AT:
            break
    if form := _form(head, whole=size <= LOOKED_AT):
        raise InputError(f"{source.label} is {form[0]}; allowed is JSON Lines.", hint=form[1].format(source.quoted))


ARRAY = ("one JSON array", "Convert it: `jq -c '.[]' {0} > records.jsonl`.")
SPREAD = ("JSON with objects over several lines", "Convert it: `jq -c . {0} > records.jsonl`.")
JOINED = ("JSON with several objects on one line", "Convert it: `jq -c . {0} > records.jsonl`.")
COMMAS = ("JSON with commas between its objects", "Convert it: `sed 's/,[[:space:]]*$//' {0} > records.jsonl`.")
PARQUET = ("Parquet", "Give it a name that ends in .parquet.")


def _form(head: list[bytes], *, whole: bool) -> tuple[str, str] | None:
    """Return the form of a file that is not JSON Lines, and what to do; None for JSON Lines with a bad first line.

    Args:
        head: The first lines of the file; the first of them is no record.
        whole: Whether these are all lines.
    """
    if head[0].startswith(b"PAR1"):
        return PARQUET
    text = b"\n".join(head).decode("utf-8", "replace")
    if text[0] not in "[{" or nested_too_deeply(text.encode()):
        return None
    lines, array = len(head), text[0] == "["
    try:
        _, end = _DECODER.raw_decode(text)
    except json.JSONDecodeError as error:
        # Lines that go on to the end of what was looked at without a contradiction belong together.
        open_end = error.pos >= len(text) or error.msg.startswith("Unterminated string")
        if not open_end or lines == 1 or not (array or not whole or not any(map(_is_record, head[1:]))):
            return None
        return ARRAY if array else SPREAD
    if "\n" in text[:end]:
        return ARRAY if array else SPREAD
    if array:
        return ARRAY if lines == 1 and end == len(text) else None
    if lines > 1 and _is_record(head[1]):
        return None
    return COMMAS if text[end:].lstrip().startswith(",") else JOINED


def _is_record(line: bytes) -> bool:
    try:
        load(line)
    except RequestError:
        return False
    return True
