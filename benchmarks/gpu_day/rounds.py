"""Rounds of a full batch, watched while they are decoded.

All rows begin together, and their first turn reads the prompts. What counts are the turns behind it, up to the one in
which the first row ends: rounds of a full batch that read no prompt, with all that the host does between them, such as
a large run consists of for the most part. A round counts as the median of those with its plan. The first two of a shape
are issued operation by operation and recorded, which a large run does once and these few rounds would show too much of.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from gpu_day.device import Busy
from spectr_runtime import Completion, Decoder, Request
from spectr_runtime.speculation.turn import Turn

PROFILED = range(4, 8)  # turns


class Rounds(NamedTuple):
    """Rounds of a full batch in one decoding.

    Attributes:
        seconds: How long they take, each as long as the median of those with its plan.
        spent: How long they took.
        count: Their number.
        tokens: What they wrote, in all rows.
        plans: How many of them took each plan.
        texts: What was written so far in every row, by its name, in the turn before them too.
    """

    seconds: float
    spent: float
    count: int
    tokens: int
    plans: Counter[str]
    texts: dict[str, list[int]]

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


class Watched:
    """A decoder that is watched.

    Args:
        decoder: The decoder. As many requests as its batch has rows are decoded at a time.

    Attributes:
        after: Is called after every turn with the turns so far, that one among them.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.after: Callable[[int], None] = lambda turns: None
        self._decoder = decoder
        self._ends: list[float] = []
        self._turns: list[Turn] = []
        observe = decoder._loop._chooser.observe

        def watch(turn: Turn) -> None:
            observe(turn)
            self._ends.append(time.perf_counter())
            self._turns.append(turn)
            self.after(len(self._turns))

        decoder._loop._chooser.observe = watch  # type: ignore[method-assign]

    def decode(self, requests: Sequence[Request]) -> Rounds:
        """Decode requests until the first row ends.

        Raises:
            RuntimeError: A row failed, there is no memory for all, or one ended in the turn that read the prompts.
        """
        self._turns.clear()
        self._ends.clear()
        first = next(self._decoder.generate(requests))
        if not isinstance(first, Completion):
            raise RuntimeError(f"{first.id}: {first.error}")
        if self._decoder.batch_size < len(requests):
            raise RuntimeError(f"There is no memory for {len(requests)} rows.")
        if len(self._turns) < 2:
            raise RuntimeError("A row ended in its first round; rows must write more tokens.")
        texts: dict[str, list[int]] = {request.id: [] for request in requests}
        for turn in self._turns:
            for row, tokens, accepted in zip(turn.rows, turn.wrote.tokens, turn.wrote.accepted, strict=False):
                if row is not None:
                    texts[row.request.id] += tokens[: accepted + 1]
        plans = [str(turn.plan) for turn in self._turns[1:]]
        spent = [after - before for before, after in pairwise(self._ends)]
        took = {plan: [one for one, taken in zip(spent, plans, strict=True) if taken == plan] for plan in plans}
        return Rounds(
            seconds=sum(statistics.median(took[plan]) for plan in plans),
            spent=sum(spent),
            count=len(spent),
            tokens=sum(len(text) for text in texts.values()) - _written(self._turns[0]),
            plans=Counter(plans),
            texts=texts,
        )

    def busy(self, requests: Sequence[Request]) -> float | None:
        """Return for how many seconds of a round kernels run on the GPU; None if there are too few rounds."""
        busy = Busy()
        profile = {PROFILED.start: busy.start, PROFILED.stop: busy.stop}
        before, self.after = self.after, lambda turns: profile.get(turns, lambda: None)()
        try:
            self.decode(requests)
        finally:
            self.after = before
        if busy.runs:
            busy.stop()
        return busy.seconds / len(PROFILED) if len(self._turns) >= PROFILED.stop else None


def _written(turn: Turn) -> int:
    return sum(accepted + 1 for row, accepted in zip(turn.rows, turn.wrote.accepted, strict=False) if row is not None)
