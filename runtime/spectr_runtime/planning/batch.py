"""How many rows are decoded together: the choice, by memory, by what is to be decoded, and by the cost of rounds.

It is made once, before anything is decoded. No row depends on it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping

from spectr_runtime.planning.costs import Curve

# So many rows are decoded together whatever rounds cost, if as many completions are left and they fit: more rows pay up
# to here, and a measurement would take longer than it saves, or may have been disturbed.
AT_ONCE = 16
STRETCH = 2  # how far beyond the most rows that were measured their figures reach, where more may pay
ENOUGH = 1.1  # the gain in speed, where rows are doubled, for which still more rows are looked at
SPARED = 0.05  # of the best speed, which is not worth the memory of more rows
LADDER = sorted(base << power for base in (2, 3) for power in range(12))


@dataclasses.dataclass(frozen=True, slots=True)
class Demand:
    """What a process is to decode.

    Attributes:
        completions: Number of completions.
        prompt: Mean number of tokens of a prompt.
        limit: Mean token limit of a completion.
        longest: The most tokens of a row, its prompt among them; None for as many as the bundle takes.
    """

    completions: int
    prompt: float
    limit: float
    longest: int | None = None

    @property
    def length(self) -> int:
        """Tokens of a typical row, when half of what it may write is written."""
        return round(self.prompt + self.limit / 2)


@dataclasses.dataclass(frozen=True, slots=True)
class Room:
    """How many rows there is room for.

    Attributes:
        rows: Number of rows; None if that is not known.
        words: What they do, for a person: ``fit into 11.2 GB``.
    """

    rows: int | None
    words: str


@dataclasses.dataclass(frozen=True, slots=True)
class BatchSize:
    """How many rows are decoded together, and why so many."""

    rows: int
    reason: str

    def __str__(self) -> str:
        return f"batch size {self.rows:,}: {self.reason}"


def without_costs(demand: Demand, room: Room) -> BatchSize | None:
    """Return the batch size where it does not depend on what rounds cost; None where it does."""
    if demand.completions <= AT_ONCE and (room.rows is None or demand.completions <= room.rows):
        return _all(demand)
    if room.rows is not None and room.rows <= AT_ONCE:
        return BatchSize(room.rows, f"as many rows as {room.words}")
    return None


def choose(demand: Demand, room: Room, seconds: Mapping[int, float], most: int) -> BatchSize:
    """Return the batch size that decodes all completions soonest, or a smaller one that is hardly slower.

    The completions count as equally long. They are then decoded in generations, each as large as the batch, and the
    last one as large as what is left: 9 completions take less time in a batch of 9 than in one of 8.

    Args:
        demand: What is to be decoded.
        room: How many rows there is room for.
        seconds: The seconds in which every row writes one token and reads its share of a prompt, by the number of rows;
            at least one of them.
        most: The most rows that may be chosen; no more than there is room for, and than there are completions.
    """
    last, curve = max(seconds), Curve(seconds)
    reach = min(STRETCH * last if gains(seconds) else last, most)
    spent = {rows: _spent(demand.completions, rows, curve) for rows in _candidates(demand.completions, reach)}
    least = min(spent.values())
    rows = min(rows for rows, total in spent.items() if total <= (1 + SPARED) * least)
    if rows == demand.completions:
        return _all(demand)
    if rows == room.rows:
        return BatchSize(rows, f"as many rows as {room.words}")
    fitting = "" if room.rows is None else f"{room.rows:,} rows would {room.words}, and "
    if rows == reach:
        more = (
            "more were not measured"
            if gains(seconds)
            else f"twice as many gain under {100 * (ENOUGH - 1):.0f} % (measured)"
        )
        return BatchSize(rows, f"{fitting}{more}")
    return BatchSize(rows, f"{fitting}more than {rows:,} gain under {100 * SPARED:.0f} % (measured)")


def gains(seconds: Mapping[int, float]) -> bool:
    """Return whether the last measured rows were fast enough that still more may pay."""
    measured = sorted(seconds)
    if len(measured) < 2:
        return True
    before, last = measured[-2:]
    gain = (last / seconds[last]) / (before / seconds[before])
    return math.log(gain) >= math.log(ENOUGH) * math.log2(last / before)


def _all(demand: Demand) -> BatchSize:
    many = f"all {demand.completions:,} completions at once" if demand.completions > 1 else "one completion is all"
    return BatchSize(demand.completions, many)


def _candidates(completions: int, most: int) -> set[int]:
    """Return the numbers of rows to choose from: round ones, those of few full generations, and the most."""
    least = min(AT_ONCE, most)
    full = (-(-completions // generations) for generations in range(1, 9))
    return {rows for rows in itertools.chain((most,), LADDER, full) if least <= rows <= most}


def _spent(completions: int, rows: int, curve: Curve) -> float:
    """Return the seconds of all completions for each of their tokens."""
    generations, left = divmod(completions, rows)
    return generations * curve.at(rows) + (curve.at(left) if left else 0.0)
