"""What the host found for a row before a round: drafts, or that it is to draft nothing."""

from __future__ import annotations

from typing import NamedTuple

from spectr_runtime.rows.drafting import SourceName


class Proposal(NamedTuple):
    """Drafts for one row, or what its request says of them.

    Attributes:
        source: Where they come from: ``lookup`` or ``corpus``. ``draft`` without paths leaves the row to the draft
            model, and None without paths is a row that drafts nothing.
        paths: The drafts, the best path first.
        matched: How many tokens of the text's end were found elsewhere.
        promise: How many tokens of the first path are expected to be accepted, if it is cut to 1, 2, ... tokens.
        wide: The same for all paths together.
        forced: Whether the request asked for this source.
    """

    source: SourceName | None
    paths: tuple[tuple[int, ...], ...] = ()
    matched: int = 0
    promise: tuple[float, ...] = ()
    wide: tuple[float, ...] = ()
    forced: bool = False

    @property
    def depth(self) -> int:
        """Tokens of the longest path."""
        return max(map(len, self.paths), default=0)

    def promised(self, drafts: int, length: int) -> float:
        """Return how many tokens are expected to be accepted of so many paths, cut to a length."""
        promise = self.promise if drafts == 1 else self.wide
        return promise[min(length, len(promise)) - 1] if promise else 0.0

    def cut(self, drafts: int, length: int) -> tuple[tuple[int, ...], ...]:
        """Return so many of the paths, cut to a length."""
        return tuple(path[:length] for path in self.paths[:drafts])
