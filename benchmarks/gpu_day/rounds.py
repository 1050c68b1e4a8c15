"""Rounds of a full batch, watched while they are decoded.

All rows begin together, and their first turn reads the prompts. What counts are the turns behind it up to the one in
which the first row ends: rounds of a full batch that read no prompt, with all that the host does between them, such as
a large run consists of for the most part.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gpu_day.device import Busy
from spectr_runtime import Completion, Decoder, Request
from spectr_runtime.speculation.turn import Turn

PROFILED = range(2, 6)  # turns


class Rounds(NamedTuple):
    """Rounds of a full batch in one decoding.

    Attributes:
        seconds: How long they took.
        count: Their number.
        tokens: What they wrote, in all rows.
        plans: How many of them took each plan.
        texts: The tokens of every row, by its name; of the whole decoding.
    """

    seconds: float
    count: int
    tokens: int
    plans: Counter[str]
    texts: dict[str, tuple[int, ...]]

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


class Watched:
    """A decoder that is watched.

    Args:
        decoder: The decoder. As many requests as its batch has rows are decoded at a time.
        after: Is called after every turn with the turns so far, that one among them.
    """

    def __init__(self, decoder: Decoder, after: Callable[[int], None] = lambda turns: None) -> None:
        self.decoder, self.after = decoder, after
        self._turns: list[tuple[float, int, str]] = []
        observe = decoder._chooser.observe

        def watch(turn: Turn) -> None:
            observe(turn)
            accepted = turn.emitted.accepted_B.tolist()
            self._turns.append((time.perf_counter(), sum(accepted) + len(accepted), str(turn.plan)))
            self.after(len(self._turns))

        decoder._chooser.observe = watch  # type: ignore[method-assign]

    def decode(self, requests: Sequence[Request]) -> Rounds:
        """Decode requests once.

        Raises:
            RuntimeError: A row failed, or the first one ended in the turn that read the prompts.
        """
        self._turns.clear()
        texts, full = dict[str, tuple[int, ...]](), 0
        for row in self.decoder.generate(requests):
            if not isinstance(row, Completion):
                raise RuntimeError(f"{row.id}: {row.error}")
            full = full or len(self._turns)
            texts[row.id] = row.token_ids
        if full < 2:
            raise RuntimeError("A row ended in its first round; rows must write more tokens.")
        counted = self._turns[1:full]
        return Rounds(
            counted[-1][0] - self._turns[0][0],
            len(counted),
            sum(tokens for _, tokens, _ in counted),
            Counter(plan for *_, plan in counted),
            texts,
        )

    def busy(self, requests: Sequence[Request]) -> float | None:
        """Return for how many seconds of a round kernels run on the GPU; None if there are too few rounds."""
        busy, ends = Busy(), [0]

        def profile(turns: int) -> None:
            ends.append(turns)
            if turns == PROFILED.start:
                busy.start()
            elif turns == PROFILED.stop:
                busy.stop()

        before, self.after = self.after, profile
        try:
            self.decode(requests)
        finally:
            self.after = before
        return busy.seconds / len(PROFILED) if ends[-1] >= PROFILED.stop else None
