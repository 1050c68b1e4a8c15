"""CSV and TSV files: the header, and the rows as texts."""

from __future__ import annotations

import collections
import csv
import io
import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, TextIO

from spectr_jobs.errors import InputError

LONGEST_FIELD = 64 * 2**20  # characters of a field
SEPARATORS = ",;\t"
_SEPARATOR_LINE = re.compile("sep=(.)\\s*")  # a first line with which spreadsheets tell each other the separator
_QUOTED = re.compile('"[^"]*"')


def read(file: BinaryIO, name: str) -> tuple[Sequence[str], Iterator[list[str]]]:
    """Return the header of a file, without blanks around its names, and its rows.

    The header says whether commas, semicolons or tabs separate the fields. Rows without any text at the end of the file
    are left out.

    Raises:
        InputError: The file is not UTF-8 or not CSV, or a row has another number of fields than the header.
    """
    csv.field_size_limit(LONGEST_FIELD)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    rows = _rows(text, name)
    header = next(rows, [])
    return [column.strip() for column in header], _without_tail(_checked(rows, len(header), name))


def _rows(text: TextIO, name: str) -> Iterator[list[str]]:
    reader = None
    with text:
        try:
            first = next((line for line in text if line.strip()), "")
            told = _SEPARATOR_LINE.fullmatch(first)
            header = next(text, "") if told else first
            separator = told[1] if told else _separator(header)
            fields = header.split(separator)[1:]
            reader = csv.reader(
                itertools.chain([header], text),
                delimiter=separator,
                skipinitialspace=bool(fields) and all(field.startswith(" ") for field in fields),
                strict=True,
            )
            yield from (row for row in reader if row)
        except UnicodeDecodeError as error:
            message = f"{name} is not UTF-8: {error.reason}, after line {_line(reader)}."
            raise InputError(
                message, hint="Export it as UTF-8, or convert it: `iconv -f WINDOWS-1252 -t UTF-8`."
            ) from error
        except csv.Error as error:
            message = f"{name} is not sound CSV: {error}, after line {_line(reader)}."
            raise InputError(message, hint="Close every quote, and double those inside of a quoted field.") from error


def _line(reader: Any) -> int:
    return 0 if reader is None else int(reader.line_num)


def _separator(header: str) -> str:
    """Return the separator that occurs most often in a header outside of quotes."""
    counts = collections.Counter(_QUOTED.sub("", header))
    return max(SEPARATORS, key=lambda separator: counts[separator])


def _checked(rows: Iterator[list[str]], width: int, name: str) -> Iterator[list[str]]:
    for index, row in enumerate(rows):
        if len(row) != width:
            message = f"{name}: row {index + 1}: got {len(row):,} fields, allowed {width:,}, as the header has."
            raise InputError(message, hint="Quote fields that hold separators.")
        yield row


def _without_tail(rows: Iterator[list[str]]) -> Iterator[list[str]]:
    empty: list[list[str]] = []
    for row in rows:
        if any(row):
            yield from empty
            empty = []
            yield row
        else:
            empty.append(row)
