"""The pair of a decoder, with as many rows as there is memory for."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import nullcontext

from spectr_runtime.errors import EngineError, SpectrError, first_line, is_out_of_memory
from spectr_runtime.reading.counts import Reading
from spectr_runtime.speculation.pair import Pair

LOG = logging.getLogger(__name__)


class ShrinkingPair:
    """Opens a pair, and halves the number of its rows whenever memory runs out.

    Attributes:
        rows: The number of rows.
        reading: What the pair has read, whether or not it was replaced by a larger one since.

    Args:
        open_pair: Opens a pair with so many ``rows`` for texts of ``longest`` tokens.
        rows: The number of rows that is asked for.
        longest: Tokens of the longest text, as far as is known.
        device: The device that the models run on, as torch names it.
        shrinks: Whether the number of rows may change.

    Raises:
        SpectrError: The pair cannot be opened, whatever the number of rows.
    """

    def __init__(
        self, open_pair: Callable[..., Pair], rows: int, longest: int, device: str, *, shrinks: bool = True
    ) -> None:
        self.rows = rows
        self.reading = Reading()
        self._open_pair, self._longest = open_pair, longest
        self._fixed, self._shrinks = device == "cpu", shrinks
        self._pair: Pair | None = self._opened(longest)

    @property
    def pair(self) -> Pair:
        """The pair as it is open now; if a larger one could not be opened, it is opened as at first.

        Raises:
            SpectrError: It cannot be opened.
        """
        if self._pair is None:
            self._pair = self._opened(self._longest)
        return self._pair

    def _opened(self, longest: int) -> Pair:
        while True:
            try:
                pair = self._open_pair(rows=self.rows, longest=longest)
            except SpectrError as error:
                # Linux hands out more memory than the machine has, so a cache that it grants may still not fit.
                if self._fixed and self._shrinks:
                    raise
                self.halve(error)
            else:
                pair.reader.counts = self.reading
                return pair

    def outgrow(self, longest: int) -> None:
        """Open larger engines, for texts of so many tokens, in place of those that are open.

        Raises:
            SpectrError: They cannot be opened.
        """
        self._pair = None  # its memory is needed
        self._pair = self._opened(longest)

    def halve(self, error: Exception) -> None:
        """Halve the number of rows if memory ran out; raise any other error again, and this one if one row is left.

        Raises:
            EngineError: The number of rows must not change.
        """
        if is_out_of_memory(error) and not self._shrinks:
            raise EngineError(
                f"There is no memory for {self.rows} rows, and with calls of one shape their number does not change: "
                f"{first_line(error)}",
                hint="Use a --call-shape of fewer ROWS, or a smaller batch_size in Python.",
            ) from error
        if not is_out_of_memory(error) or self.rows == 1:
            raise error
        LOG.warning("No memory for %d rows; going on with %d.", self.rows, self.rows // 2)
        self.rows //= 2

    def leave(self) -> None:
        """Let go of what the passes of the pair were in the context of, if it is open."""
        if self._pair is not None:
            self._pair.surround(nullcontext)

    def restart(self) -> None:
        """Empty the caches, and make them as large as the number of rows is now, or as there is memory for.

        Raises:
            EngineError: There is no memory for a single row.
        """
        while True:
            try:
                return self.pair.restart(self.rows)
            except SpectrError as error:
                self.halve(error)
