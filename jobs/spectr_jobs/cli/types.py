"""The types of the parameters of ``spectr-batch run``."""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import TYPE_CHECKING, Any, Final

import click

from spectr_jobs.clock import parse_duration

if TYPE_CHECKING:
    from spectr_jobs.work.setup import BatchChoice

ROWS: Final = "auto"  # instead of a number of rows: the process chooses it


@dataclasses.dataclass(frozen=True, slots=True)
class CallShape:
    """The one shape of all calls.

    Attributes:
        rows: Rows of the batch.
        tokens: Tokens that rounds feed the target for each row.
    """

    rows: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.rows}x{self.tokens}"


class Rows(click.ParamType["BatchChoice"]):
    """The type of a parameter that is a number of rows, or ``auto``."""

    name = "rows"
    _number = click.IntRange(min=1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> BatchChoice:
        """Return the number of rows, or ``auto``."""
        if value == ROWS:
            return ROWS
        try:
            int(value)
        except ValueError:
            self.fail(f"got {value}, allowed are {ROWS} and numbers of rows from 1 on", param, ctx)
        rows: int = self._number.convert(value, param, ctx)
        return rows


class Shape(click.ParamType[CallShape]):
    """The type of a parameter ``ROWSxTOKENS``, for instance ``8x17``."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> CallShape:
        """Return the shape."""
        found = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", str(value))
        if found is None:
            self.fail(f"got {value}, allowed is ROWSxTOKENS with numbers from 1 on, for instance 8x17", param, ctx)
        return CallShape(int(found[1]), int(found[2]))


class Column(click.ParamType[tuple[str, str]]):
    """The type of a parameter ``FIELD=COLUMN``: a field of records, and the column of a table that holds it."""

    name = "column"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return the field and the column."""
        if isinstance(value, tuple | list) and len(value) == 2:
            return str(value[0]), str(value[1])
        field, equals, column = str(value).partition("=")
        if not (field and equals and column):
            self.fail(f"got {value!r}, allowed FIELD=COLUMN, for instance prompt=question", param, ctx)
        return field, column


class Duration(click.ParamType[float]):
    """The type of a parameter that is a duration, for instance ``3h50m``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the duration in seconds."""
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Day(click.ParamType[datetime.date]):
    """The type of a parameter that is a day, for instance ``2026-11-28``."""

    name = "day"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime.date:
        """Return the day."""
        try:
            return datetime.date.fromisoformat(str(value))
        except ValueError:
            self.fail(f"got {value}, allowed is a day as YYYY-MM-DD, for instance 2026-11-28", param, ctx)
