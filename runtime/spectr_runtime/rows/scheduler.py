"""Which rows of the batch are in use, and by which requests."""

from __future__ import annotations

from spectr_runtime.rows.row import Row


class Scheduler:
    """The rows of the batch, each free or in use.

    Args:
        rows: Number of rows of the batch.
    """

    def __init__(self, rows: int) -> None:
        self._rows: list[Row | None] = [None] * rows

    @property
    def room(self) -> int:
        """The number of free rows."""
        return self._rows.count(None)

    @property
    def batch(self) -> list[Row | None]:
        """The rows up to the last one in use, by their index; a free one among them is None."""
        used = len(self._rows)
        while used and self._rows[used - 1] is None:
            used -= 1
        return self._rows[:used]

    def at(self, index: int) -> Row | None:
        """Return the row at an index; None if it is free."""
        return self._rows[index]

    def admit(self, row: Row) -> int:
        """Put a row at the first free index, and return the index."""
        index = self._rows.index(None)
        self._rows[index] = row
        return index

    def close_gap(self) -> tuple[Row, int, int] | None:
        """Move the last row to the first free index before it.

        Returns:
            The row, its index before and its index now; None if there is no free index before it.
        """
        source = len(self.batch) - 1
        target = self._rows.index(None) if None in self._rows else source
        row = self._rows[source] if target < source else None
        if row is None:
            return None
        self._rows[source], self._rows[target] = None, row
        return row, source, target

    def release(self, index: int) -> None:
        """Free the row at an index."""
        self._rows[index] = None
