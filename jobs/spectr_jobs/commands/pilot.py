"""The pilot: some completions of a run, decoded to measure the speed, and then thrown away."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from collections.abc import Iterable, Sequence

from spectr_jobs.work.models import RunDecoder
from spectr_runtime.rows.request import Completion, Request

LONGEST = 60.0  # seconds after which the pilot ends, once a batch of completions has ended
GENERATIONS = 4  # number of times that every row of the batch is filled, in the mean
GROUPS = 4  # batch means of which the uncertainty is computed
STUDENT = 3.18  # two-sided 95 % quantile of Student's law with GROUPS - 1 degrees of freedom

Mark = tuple[float, int]  # seconds since the start, tokens so far


@dataclasses.dataclass(frozen=True, slots=True)
class Pilot:
    """The speed of decoding, measured while the batch was full.

    Attributes:
        completions: Number of completions that ended in the measured time.
        tokens: Tokens of these completions.
        seconds: The measured time.
        uncertainty: Half the width of the 95 % confidence interval of the seconds per completion, relative to the mean;
            None if there were too few completions.
    """

    completions: int
    tokens: int
    seconds: float
    uncertainty: float | None

    @property
    def seconds_per_completion(self) -> float:
        """Mean time from the end of one completion to the end of the next, in seconds."""
        return self.seconds / self.completions


def decode_sample(decoder: RunDecoder, requests: Iterable[Request], batch_size: int) -> Pilot | None:
    """Decode some of the requests, and return the speed; None if no request succeeds.

    Args:
        decoder: A decoder, opened as for the run.
        requests: A random sample of the run's requests, large enough to keep the batch full to the end.
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
    """Compute the speed from the instants at which completions ended.

    All rows start together, so that the first completions to end are the short ones. Therefore the first generation,
    one completion per row, is left out if more than two generations ended. The uncertainty is that of batch means (Law
    and Carson, 1979): completions that end one after another form a group, and the means of the groups are treated as
    independent.
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
