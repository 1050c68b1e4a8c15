"""Tables as inputs: every row of a Parquet or CSV file becomes the JSON of a record."""

from __future__ import annotations

import collections
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from spectr_jobs.errors import InputError
from spectr_jobs.extras import load
from spectr_jobs.inputs.compression import PACKED
from spectr_jobs.inputs.stores import bare
from spectr_jobs.records import fields

BATCH = 1000  # rows read at a time from a Parquet file
LONGEST_FIELD = 64 * 2**20  # characters of a CSV field
# A CSV file holds texts only. The texts of these columns are parsed as JSON; in ``stop``, a list is, a text is not.
_TYPED = (fields.SAMPLING.keys() | fields.UNSUPPORTED.keys() | {"messages", "token_ids"}) - {"stop"}
_KNOWN = _TYPED | {"stop", "id", "prompt"}

CSV, PARQUET = (".csv", ".tsv"), (".parquet",)  # endings of names
Columns = Mapping[str, str]


def is_table(name: str) -> bool:
    """Return whether a file holds a table, judged by its name."""
    return bare(name).lower().endswith(PARQUET) or is_csv(name)


def is_csv(name: str) -> bool:
    """Return whether a file is CSV, judged by its name."""
    plain = bare(name).lower()
    for packed in PACKED:
        plain = plain.removesuffix(packed)
    return plain.endswith(CSV)


def rows(file: BinaryIO, name: str, columns: Columns, start: int) -> Iterator[tuple[int, bytes]]:
    """Yield the index of every row, from 0 without the header, and the row as JSON.

    Args:
        file: The content of the file.
        name: Name of the file.
        columns: The column of every field that has another name there; all other columns keep their names.
        start: Index of the first row to yield.

    Raises:
        InputError: The file is damaged, or has no column of a given name.
    """
    of_text = is_csv(name)
    for index, row in _csv(file, name) if of_text else _parquet(file, name, start):
        if index >= start:
            renamed = _renamed(row, columns, name)
            yield index, _encode(_typed(renamed) if of_text else renamed)


def _renamed(row: dict[str, Any], columns: Columns, name: str) -> dict[str, Any]:
    for column in columns.values():
        if column not in row:
            raise InputError(f"{name} has no column {column!r}; it has {', '.join(row)}.", hint="Correct --column.")
    taken = {field: row[column] for field, column in columns.items()}
    return {column: value for column, value in row.items() if column not in columns.values()} | taken


def _encode(row: dict[str, Any]) -> bytes:
    """Return a row as JSON. Dates, decimals and bytes, which JSON does not have, become texts."""
    return json.dumps(row, ensure_ascii=False, default=str).encode("utf-8", "surrogatepass")


def _parquet(file: BinaryIO, name: str, start: int) -> Iterator[tuple[int, dict[str, Any]]]:
    parquet: Any = load("pyarrow.parquet", "parquet", f"Reading {name}")
    arrow: Any = load("pyarrow", "parquet", f"Reading {name}")
    try:
        table = parquet.ParquetFile(file)
        index = 0
        for group in range(table.num_row_groups):
            size = table.metadata.row_group(group).num_rows
            if index + size <= start:
                index += size
                continue
            for batch in table.iter_batches(batch_size=BATCH, row_groups=[group]):
                for row in batch.to_pylist():
                    yield index, row
                    index += 1
    except arrow.ArrowException as error:
        raise InputError(f"{name} is not a sound Parquet file: {error}.", hint="Copy the file again.") from error


def _csv(file: BinaryIO, name: str) -> Iterator[tuple[int, dict[str, Any]]]:
    csv.field_size_limit(LONGEST_FIELD)
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as text:
        table = csv.DictReader(text, strict=True)
        try:
            _refuse_repeated(name, table.fieldnames or ())
            for index, row in enumerate(table):
                if None in row or None in row.values():
                    message = f"{name}: row {index + 1}: the row and the header have different numbers of fields."
                    raise InputError(message, hint="Quote fields that hold commas.")
                yield index, row
        except (csv.Error, UnicodeDecodeError) as error:
            message = f"{name}: after line {table.line_num}: {error}."
            raise InputError(message, hint="The file must be CSV in UTF-8.") from error


def _refuse_repeated(name: str, columns: Sequence[str]) -> None:
    repeated = [column for column, times in collections.Counter(columns).items() if times > 1]
    if repeated:
        raise InputError(f"{name} has several columns {repeated[0]!r}.", hint="Give every column a name of its own.")


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """Parse the texts of a CSV row that stand for other types. An empty cell of a known field means no field."""
    return {name: _value(name, text) for name, text in row.items() if text or name not in _KNOWN}


def _value(name: str, text: str) -> Any:
    if name not in _TYPED and not (name == "stop" and text.startswith("[")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
