"""Types of options."""

from __future__ import annotations

from typing import Any

import click

from spectr_jobs import duration


class Column(click.ParamType[tuple[str, str]]):
    """A field and the column that holds it."""

    name = "column"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Both sides of the equals sign."""
        if isinstance(value, tuple | list) and len(value) == 2:
            return str(value[0]), str(value[1])
        field, equals, column = str(value).partition("=")
        if not (field and equals and column):
            self.fail(f"got {value!r}, allowed FIELD=COLUMN, for instance prompt=question", param, ctx)
        return field, column


class Duration(click.ParamType[float]):
    """A duration as an option."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds of the text."""
        try:
            return duration.parse(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
