"""Tables as inputs: every row of a Parquet, CSV or TSV file becomes the JSON of a record.

A table is made by a program that knows columns and no fields. So a column is taken or refused once, by its name, and a
cell that holds no value is no field.
"""

from __future__ import annotations

import codecs
import collections
import datetime
import io
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, BinaryIO

from spectr_jobs.errors import InputError
from spectr_jobs.inputs import delimited, parquet
from spectr_jobs.inputs.compression import PACKED
from spectr_jobs.inputs.stores import bare
from spectr_jobs.records import record, template
from spectr_jobs.records.line import nested_too_deeply

CSV, PARQUET = (".csv", ".tsv"), (".parquet",)  # endings of names
LINES = ".jsonl"
PLAIN = (LINES, CSV[0], PARQUET[0])  # what ``ending_of`` returns
_COMPARED = 3  # rows that a text has to share its number of fields with, to be CSV with unknown columns
INDEX = "__index_level_"  # begins the names that pandas gives to an index
# A text in one of these columns is parsed as JSON; in ``stop``, a list is, a text is not.
_TYPED = (record.FIELDS | {"messages", "token_ids", "body"}) - {"stop", *template.TEXTS}
_KNOWN = record.FIELDS | record.ENVELOPE.keys() | {"id", *record.PROMPTS}
_MISSING = frozenset({"", "nan", "none", "null", "<na>", "nat"})  # what programs write into a cell without a value
_TIMES = (datetime.date, datetime.time, datetime.timedelta)
_TIMES_OF_ISO = (datetime.date, datetime.time)
_LARGEST = 2.0**63  # beyond it no field takes integers

Columns = Mapping[str, str]


def is_table(name: str) -> bool:
    """Return whether a file holds a table, judged by its name."""
    return bare(name).lower().endswith(PARQUET) or is_csv(name)


def is_csv(name: str) -> bool:
    """Return whether a file is CSV or TSV, judged by its name."""
    plain = bare(name).lower()
    for packed in PACKED:
        plain = plain.removesuffix(packed)
    return plain.endswith(CSV)


def ending_of(head: bytes, columns: Columns) -> str:
    """Return the ending that a file's name should have, judged by its content: one of ``PLAIN``.

    Args:
        head: The first bytes, decompressed.
        columns: The column of every field that has another name there.
    """
    if head.startswith(b"PAR1"):
        return PARQUET[0]
    of_json = head.removeprefix(codecs.BOM_UTF8).lstrip().startswith((b"{", b"["))
    return LINES if of_json or b"\0" in head or not _is_csv_text(head, columns) else CSV[0]


def _is_csv_text(head: bytes, columns: Columns) -> bool:
    """Return whether a text is CSV: its first line names a field, or the next ones have as many fields, two or more."""
    try:
        header, found = delimited.read(io.BytesIO(head), "")
        if any(_field(column, header) in _KNOWN or column in columns.values() for column in header):
            return True
        some = list(itertools.islice(found, _COMPARED))
        return len(header) > 1 and bool(some) and not any(row[0].startswith("{") for row in some)
    except InputError:
        return False


def rows(file: BinaryIO, name: str, columns: Columns, start: int, *, of_text: bool) -> Iterator[tuple[int, bytes]]:
    """Yield the index of every row, from 0 without the header, and the row as JSON.

    Args:
        file: The content of the file.
        name: Name of the file, for messages.
        columns: The column of every field that has another name there; all other columns keep their names.
        start: Index of the first row to yield.
        of_text: Whether the file is CSV or TSV, and not Parquet.

    Raises:
        InputError: The file is damaged, or a column is missing, ambiguous, or of no use.
    """
    header, found = delimited.read(file, name) if of_text else parquet.read(file, name, start)
    taken = take(header, columns, name)
    for index, row in enumerate(found, 0 if of_text else start):
        if index >= start:
            yield index, _encode({field: row[place] for field, place in taken.items()}, name)


def take(header: Sequence[str], columns: Columns, name: str) -> dict[str, int]:
    """Return the fields of a table's records, each with the index of its column.

    Capitals and blanks around a name do not matter if it is a field's. Columns without a name, and the index of pandas,
    are left out.

    Args:
        header: The names of all columns.
        columns: The column of every field that has another name there.
        name: Name of the file, for messages.

    Raises:
        InputError: A column is missing or ambiguous, has a name that no record may have, or there is no prompt.
    """
    for column in columns.values():
        if column not in header:
            message = f"{name} has no column {column!r}; it has {', '.join(header)}."
            raise InputError(message, hint="Correct --column.")
    found = [
        (_field(column, header), place)
        for place, column in enumerate(header)
        if column.strip() and not column.startswith(INDEX) and column not in columns.values()
    ]
    _refuse_repeated([field for field, _ in found], name)
    taken = {field: place for field, place in found if field not in columns}
    taken |= {field: header.index(column) for field, column in columns.items()}
    _refuse_useless(taken.keys(), header, name)
    return taken


def _field(column: str, header: Sequence[str]) -> str:
    own = column.strip()
    small = own.lower()
    return small if small in _KNOWN and small not in header else own


def _refuse_repeated(found: Sequence[str], name: str) -> None:
    repeated = [column for column, times in collections.Counter(found).items() if times > 1]
    if repeated:
        raise InputError(f"{name} has several columns {repeated[0]!r}.", hint="Give every column a name of its own.")


def _refuse_useless(found: Set[str], header: Sequence[str], name: str) -> None:
    simple = any(prompt in found for prompt in record.PROMPTS)
    if not simple and not found & {"body", "custom_id"}:
        wanted = ", ".join(record.PROMPTS)
        message = f"{name} has no column of prompts ({wanted}, or body); it has {', '.join(header)}."
        raise InputError(message, hint="Say which column it is, for instance --column prompt=COLUMN.")
    for column in found:
        if not simple and column not in record.ENVELOPE:
            message = f"{name}: column {column!r}: allowed beside body are {', '.join(record.ENVELOPE)}."
            raise InputError(message, hint="Leave the column out.")
        if simple and column in record.RESERVED:
            message = f"{name}: column {column!r}: the output line has a field of this name for itself."
            raise InputError(message, hint="Give the column another name.")
        if simple and column not in _KNOWN and (right := record.field_meant(column)):
            message = f"{name}: column {column!r}: allowed {right}."
            raise InputError(message, hint="Give the column another name, or name it with --column.")


def _encode(row: Mapping[str, Any], name: str) -> bytes:
    """Return a row as JSON. A field whose cell holds no value is left out."""
    found: dict[str, Any] = {}
    for field, cell in row.items():
        try:
            value = _known(field, cell) if field in _KNOWN else _carried(cell)
        except UnicodeDecodeError as error:
            message = f"{name}: column {field!r} holds bytes that are not text in UTF-8."
            raise InputError(message, hint="Leave the column out, or write it as text.") from error
        except TypeError as error:
            message = f"{name}: column {field!r}: got {error}, allowed no times in this field."
            raise InputError(message, hint="Leave the column out, or give it another name.") from error
        if value is not None or field not in _KNOWN:
            found[field] = value
    return json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _known(field: str, cell: Any) -> Any:
    """Return the value of a field of ours; None for no value."""
    if isinstance(cell, bytes):
        cell = _text(cell)
    if isinstance(cell, str):
        if cell.strip().lower() in _MISSING:
            return None
        parsed = field in _TYPED or (field == "stop" and cell.startswith("["))
        cell = _parsed(cell) if parsed else cell
    return _plain(cell)


def _parsed(text: str) -> Any:
    """Return the value that a text stands for in JSON, or in the way that Python writes true and false."""
    if nested_too_deeply(text.encode("utf-8", "surrogatepass")):
        return text
    try:
        return json.loads(text, parse_constant=_refuse)
    except ValueError:
        return {"True": True, "False": False, "TRUE": True, "FALSE": False}.get(text.strip(), text)


def _refuse(constant: str) -> None:
    raise ValueError(constant)


def _plain(value: Any) -> Any:
    """Return a value without what is missing in it, and with integers for whole numbers.

    Raises:
        TypeError: The value holds a time.
    """
    if isinstance(value, dict):
        return {key: item for key, item in ((key, _plain(item)) for key, item in value.items()) if item is not None}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, _TIMES):
        raise TypeError(str(value))
    if isinstance(value, float | Decimal):
        number = float(value)
        whole = number.is_integer() and abs(number) < _LARGEST
        return None if math.isnan(number) else int(value) if whole else number
    return _text(value) if isinstance(value, bytes) else value


def _text(value: bytes) -> str:
    """Return the text that bytes hold. A zero is no part of one: ids and vectors in binary often hold some."""
    return (value if 0 not in value else b"\xff").decode("utf-8")


def _carried(value: Any) -> Any:
    """Return a value for the output line. Times and decimals, which JSON does not have, become texts, NaN null."""
    if isinstance(value, dict):
        return {str(key): _carried(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_carried(item) for item in value]
    if isinstance(value, _TIMES_OF_ISO):
        return value.isoformat()
    if isinstance(value, bytes):
        return _text(value)
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return str(value) if isinstance(value, Decimal | datetime.timedelta) else value
