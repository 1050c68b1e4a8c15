"""Parquet files: the columns, and the rows as values of Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

from spectr_jobs.errors import InputError
from spectr_jobs.extras import load

BATCH = 1000  # rows read at a time


def read(file: BinaryIO, name: str, start: int) -> tuple[Sequence[str], Iterator[list[Any]]]:
    """Return the columns of a file, and its rows from an index on. Maps are dictionaries.

    Raises:
        InputError: The file is damaged.
    """
    parquet: Any = load("pyarrow.parquet", "parquet", f"Reading {name}")
    arrow: Any = load("pyarrow", "parquet", f"Reading {name}")
    try:
        table = parquet.ParquetFile(file)
        return table.schema_arrow.names, _rows(table, arrow, name, start)
    except arrow.ArrowException as error:
        raise _damaged(name, error) from error


def _rows(table: Any, arrow: Any, name: str, start: int) -> Iterator[list[Any]]:
    index = 0
    try:
        for group in range(table.num_row_groups):
            size = table.metadata.row_group(group).num_rows
            if index + size <= start:
                index += size
                continue
            for batch in table.iter_batches(batch_size=BATCH, row_groups=[group]):
                skipped = min(max(start - index, 0), batch.num_rows)
                columns = [_values(column, arrow) for column in batch.slice(skipped).columns]
                yield from map(list, zip(*columns, strict=True))
                index += batch.num_rows
    except arrow.ArrowException as error:
        raise _damaged(name, error) from error


def _values(column: Any, arrow: Any) -> list[Any]:
    """Return the values of a column. Python has no nanoseconds, so times are cut to microseconds."""
    of_time = arrow.types.is_timestamp(column.type) or arrow.types.is_time(column.type)
    if of_time and column.type.unit == "ns":
        whole = arrow.time64("us") if arrow.types.is_time(column.type) else arrow.timestamp("us", column.type.tz)
        column = column.cast(whole, safe=False)
    found: list[Any] = column.to_pylist(maps_as_pydicts="lossy")
    return found


def _damaged(name: str, error: Exception) -> InputError:
    why = str(error).rstrip(".")
    return InputError(f"{name} is not a sound Parquet file: {why}.", hint="Copy the file again.")
