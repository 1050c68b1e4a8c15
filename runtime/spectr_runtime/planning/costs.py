"""How long a round takes on this machine, measured with the very function that decodes."""

# B rows.
from __future__ import annotations

import bisect
import dataclasses
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from spectr_runtime.bundle import Manifest
from spectr_runtime.laws.sampling import Sampling
from spectr_runtime.rows.request import SamplingParams
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.round import Rows, speculate
from spectr_runtime.speculation.timing import Timing

# The first round of a shape allocates what later ones use again, so it is not counted, unless the first rounds of all
# plans together take longer than this many seconds.
REPEATS, LONG = 3, 10.0


@dataclasses.dataclass(frozen=True, slots=True)
class Costs:
    """The seconds that a round takes, by plan, number of rows and length of text.

    Attributes:
        rows: The numbers of rows that were measured, ascending.
        lengths: The lengths of text that were measured, ascending.
        table: By the plan's name, the seconds for each number of rows and, within it, each length.
    """

    rows: tuple[int, ...]
    lengths: tuple[int, ...]
    table: Mapping[str, tuple[tuple[float, ...], ...]]

    def seconds(self, plan: Plan, rows: int, length: int) -> float:
        """Return the seconds of a round, interpolated linearly between measurements and constant beyond them.

        Args:
            plan: A plan that was measured.
            rows: Number of rows of the batch.
            length: Number of tokens of the longest text among them.
        """
        by_rows = [_interpolate(self.lengths, seconds, length) for seconds in self.table[str(plan)]]
        return _interpolate(self.rows, by_rows, rows)

    def to_json(self) -> dict[str, Any]:
        """Return the costs as JSON values."""
        return {"rows": self.rows, "lengths": self.lengths, "seconds": dict(self.table)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Costs:
        """Read what ``to_json`` wrote."""
        table = {plan: tuple(tuple(row) for row in seconds) for plan, seconds in value["seconds"].items()}
        return Costs(tuple(value["rows"]), tuple(value["lengths"]), table)


def _interpolate(points: Sequence[int], values: Sequence[float], point: int) -> float:
    point = min(max(point, points[0]), points[-1])
    right = bisect.bisect_left(points, point)
    if points[right] == point:
        return values[right]
    share = (point - points[right - 1]) / (points[right] - points[right - 1])
    return values[right - 1] + share * (values[right] - values[right - 1])


@torch.inference_mode()
def measure(pair: Pair, plans: Sequence[Plan], manifest: Manifest, rows: int) -> Costs:
    """Measure the rounds of some plans, and take the median of each.

    Texts of the bundle's capacity and of an eighth of it are measured, with all rows and with a single one: only at its
    end does a run have fewer rows than the batch holds. The plans take turns, so that a slow moment of the machine hits
    all of them. The caches are overwritten.

    Args:
        pair: The models.
        plans: The plans to measure.
        manifest: The bundle's manifest, for capacity and vocabulary.
        rows: Number of rows of the batch.
    """
    row_counts = tuple(sorted({1, rows}))
    capacity = manifest.limits.capacity
    lengths = tuple(sorted({max(capacity // 8, 2), capacity}))

    def cell(count: int, size: int) -> dict[str, float]:
        batch = _batch(count, size, manifest.vocabulary.size, pair.target.cache.buffer.device)
        first = [_seconds(plan, pair, batch) for plan in plans]
        if sum(first) > LONG:
            return {str(plan): seconds for plan, seconds in zip(plans, first, strict=True)}
        repeats = [[_seconds(plan, pair, batch) for plan in plans] for _ in range(REPEATS)]
        return {str(plan): statistics.median(one) for plan, one in zip(plans, zip(*repeats, strict=True), strict=True)}

    cells = [[cell(count, size) for size in lengths] for count in row_counts]
    return Costs(
        row_counts,
        lengths,
        {str(plan): tuple(tuple(one[str(plan)] for one in line) for line in cells) for plan in plans},
    )


def _seconds(plan: Plan, pair: Pair, rows: Rows) -> float:
    started = time.perf_counter()
    speculate(plan, pair.draft, pair.target, rows, Timing()).tokens_BD1.tolist()
    return time.perf_counter() - started


def _batch(rows: int, length: int, vocabulary: int, device: torch.device) -> Rows:
    seed_B = torch.arange(rows, device=device)
    return Rows(
        length_B=torch.full((rows,), length, device=device),
        last_B2=torch.stack([seed_B % vocabulary, (seed_B + 1) % vocabulary], 1),
        seed_B=seed_B,
        sampling=Sampling.of([SamplingParams()] * rows, vocabulary, device),
        adjustment=None,
        logprobs=None,
        longest=length,
    )
