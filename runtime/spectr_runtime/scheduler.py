"""Which request stands in which row of the batch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from spectr_runtime.row import Row


class Scheduler:
    """Keeps the rows of the batch full.

    Args:
        rows: Rows of the batch.
    """

    def __init__(self, rows: int) -> None:
        self._rows: list[Row | None] = [None] * rows
        self._fresh: list[int] = []

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
        place = self._rows.index(None)
        self._rows[place] = row
        self._fresh.append(place)

    def release(self, place: int) -> None:
        """Free a place."""
        self._rows[place] = None

    def fresh_runs(self) -> Iterator[tuple[int, list[Row]]]:
        """Runs of neighbouring rows admitted since the last call: the first place and the rows."""
        fresh, self._fresh = sorted(self._fresh), []
        for _, run in itertools.groupby(enumerate(fresh), lambda pair: pair[1] - pair[0]):
            places = [place for _, place in run]
            yield places[0], [row for place in places if (row := self._rows[place]) is not None]
