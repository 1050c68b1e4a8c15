"""The pilot: some of the completions of a run, decoded for their speed alone."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Iterable, Sequence

from spectr_jobs.work.models import RunDecoder
from spectr_runtime.rows.request import Completion, Request

LONGEST = 60.0  # seconds, once every row of the batch has been filled anew
GENERATIONS = 4  # times that every row of the batch is filled
GROUPS = 4
STUDENT = 3.18  # two-sided 95 % quantile of Student's law with GROUPS - 1 degrees of freedom

Mark = tuple[float, int]  # seconds since the start, tokens so far


@dataclasses.dataclass(frozen=True, slots=True)
class Pilot:
    """What a pilot measured while the batch was full.

    Attributes:
        completions: Completions that ended.
        tokens: Tokens of these completions.
        seconds: The time in which they ended.
        uncertainty: Half the width of the 95 % interval of the seconds per completion, as a share of them; none if
            there were too few.
    """

    completions: int
    tokens: int
    seconds: float
    uncertainty: float | None

    @property
    def seconds_per_completion(self) -> float:
        """Seconds from the end of one completion to the end of the next."""
        return self.seconds / self.completions


def decode_sample(decoder: RunDecoder, requests: Iterable[Request], batch_size: int) -> Pilot | None:
    """Decode some of the requests, and measure; None if no request succeeds.

    Args:
        decoder: Opened as for the run.
        requests: A random sample; more than are needed keep the batch full to the end.
        batch_size: Rows decoded together.
    """
    marks, tokens, started = [(0.0, 0)], 0, time.monotonic()
    for outcome in decoder.generate(requests):
        if not isinstance(outcome, Completion):
            continue
        tokens += len(outcome.token_ids)
        marks.append((time.monotonic() - started, tokens))
        ended = len(marks) - 1
        if ended >= GENERATIONS * batch_size or (ended >= batch_size and marks[-1][0] > LONGEST):
            break
    return measure(marks, batch_size) if len(marks) > 1 else None


def measure(marks: Sequence[Mark], batch_size: int) -> Pilot:
    """Return the speed that follows from the times at which completions ended.

    The rows start together, so the first to end are the short ones; the first generation is left out where two follow.
    The uncertainty is that of batch means (Law and Carson, 1979): completions that end one after another are grouped,
    and the means of the groups are taken for independent.
    """
    kept = marks[batch_size:] if len(marks) > 2 * batch_size else marks
    (begin, before), (end, after) = kept[0], kept[-1]
    return Pilot(len(kept) - 1, after - before, end - begin, _uncertainty([seconds for seconds, _ in kept]))


def _uncertainty(ends: Sequence[float]) -> float | None:
    size = (len(ends) - 1) // GROUPS
    if size < 2:
        return None
    borders = range(len(ends) - 1 - GROUPS * size, len(ends), size)
    spent = [ends[border] - ends[border - size] for border in borders[1:]]
    return STUDENT * statistics.stdev(spent) / math.sqrt(GROUPS) / statistics.fmean(spent)
