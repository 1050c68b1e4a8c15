"""What a round did for one row, for whoever watches the row."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from spectr_runtime.rows.drafting import SourceName


@dataclasses.dataclass(frozen=True, slots=True)
class RowRound:
    """What a round did for one row that took part in it.

    Attributes:
        id: The row's id.
        choice: Which completion of the id it is.
        number: Which round of the row it was, counted from 1.
        position: How many tokens the row had written before; its root is the last of these, or of the prompt.
        plan: The plan, as text.
        source: Where the row's drafts came from; None if it drafted nothing.
        paths: The tokens of the drafted paths, K at most, which meet behind the root.
        accepted: The drafts that were accepted.
        token: What the target put in after them.
        dropped: How many of these tokens came after the one that ended the row.
    """

    id: str
    choice: int
    number: int
    position: int
    plan: str
    source: SourceName | None
    paths: tuple[tuple[int, ...], ...]
    accepted: tuple[int, ...]
    token: int
    dropped: int

    @property
    def written(self) -> tuple[int, ...]:
        """The tokens that the round added to the row."""
        tokens = (*self.accepted, self.token)
        return tokens[: len(tokens) - self.dropped]


Watch = Callable[[RowRound], None]
