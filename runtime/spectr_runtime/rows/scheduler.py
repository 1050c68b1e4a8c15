"""Which request stands in which row of the batch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from spectr_runtime.rows.row import Row


class Scheduler:
    """Keeps the rows of the batch full.

    Args:
        rows: Rows of the batch.
    """

    def __init__(self, rows: int) -> None:
        self._rows: list[Row | None] = [None] * rows

    @property
    def has_room(self) -> bool:
        """Whether a row is free."""
        return None in self._rows

    @property
    def span(self) -> list[Row | None]:
        """The rows up to the last one in use; free ones among them are None."""
        used = max((place for place, row in enumerate(self._rows) if row is not None), default=-1)
        return self._rows[: used + 1]

    def admit(self, row: Row) -> None:
        """Put a row in the first free place."""
        self._rows[self._rows.index(None)] = row

    def release(self, place: int) -> None:
        """Free a place."""
        self._rows[place] = None

    def runs(self, wanted: Callable[[Row], bool]) -> Iterator[tuple[int, list[Row]]]:
        """Runs of neighbouring rows that are wanted: the first place and the rows."""
        numbered = [(place, row) for place, row in enumerate(self._rows) if row is not None and wanted(row)]
        for _, run in itertools.groupby(enumerate(numbered), lambda pair: pair[1][0] - pair[0]):
            members = [member for _, member in run]
            yield members[0][0], [row for _, row in members]
