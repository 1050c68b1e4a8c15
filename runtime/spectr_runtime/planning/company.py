"""Whether freed rows of the batch wait for others that will end soon, so that one call reads the texts of all of them.

A call that reads costs something beside its tokens: it reads the weights. Rows that are read together share that, and
pay for it with rounds in which they stand idle. Let c be the seconds of a round of B rows, R what a call costs beside
its tokens, and r how many rows end in a round. If k rows are read at a time, each pays R / k for its call, and stands
idle for (k - 1) / 2r rounds in the mean, each of which costs c / B. The sum is least at the first k with
k (k + 1) >= 2 r R B / c: the economic order quantity (Harris, 1913), in whole numbers.
"""

from __future__ import annotations

from spectr_runtime.reading.counts import Reading

KEPT = 0.98  # of what earlier rounds showed, when one more is counted


class Company:
    """Learns from the rounds what reading costs, and says for how many rows it is worth to read.

    Args:
        call_tokens: What a call costs beside its tokens, in tokens that could be read instead.
    """

    def __init__(self, call_tokens: int) -> None:
        self._call_tokens = call_tokens
        self._ended = 0.0  # rows that end in a round
        self._rounds = self._seconds = 0.0  # rounds before which nothing was read, and their time
        self._read = self._reading = 0.0  # what was read, in tokens with those that calls cost, and its time

    def observe(self, seconds: float, ended: int, read: Reading) -> None:
        """Take note of a round and of what was read before it.

        Args:
            seconds: How long both took, until the last result was there.
            ended: How many rows the round ended.
            read: What was read.
        """
        self._ended = KEPT * self._ended + (1 - KEPT) * ended
        if not read.calls:
            self._seconds = KEPT * self._seconds + seconds
            self._rounds = KEPT * self._rounds + 1
        elif self._rounds:
            self._reading = KEPT * self._reading + max(seconds - self._seconds / self._rounds, 0.0)
            self._read = KEPT * self._read + read.read + read.calls * self._call_tokens

    def enough(self, free: int, rows: int) -> bool:
        """Return whether so many free rows are to be read now.

        Args:
            free: Number of free rows, at least 1.
            rows: Number of rows of the batch, free ones included.
        """
        if not (self._rounds and self._read):
            return True
        call, one = self._reading / self._read * self._call_tokens, self._seconds / self._rounds
        return free * (free + 1) >= 2 * self._ended * call * rows / one
