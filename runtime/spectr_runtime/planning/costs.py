"""How long a round takes on this machine, learnt from the rounds themselves."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping
from typing import Any

from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.timing import Spent

# The first round of a plan allocates what later ones use again, and says little.
TELLING = 2
KEPT = 0.95  # of an estimate, when it takes in another round
SPIKE = 1.5  # a round that took more times what was expected was disturbed, and counts as this
# After so many rounds an estimate of a plan that was not taken since is out of date: texts are longer now, and the
# moment may have been a slow one.
STALE = 1000


class Mean:
    """A running estimate of one duration in seconds.

    Args:
        seconds: What it begins with.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds, self.count = seconds, 1

    def add(self, seconds: float) -> None:
        """Take in one more duration; of the first two the shorter one counts."""
        self.count += 1
        if self.count <= TELLING:
            self.seconds = min(self.seconds, seconds)
        else:
            seconds = min(seconds, SPIKE * self.seconds)
            self.seconds += max(1 - KEPT, 1 / self.count) * (seconds - self.seconds)


class Curve:
    """Seconds of a call over the number of tokens that it is fed, in all rows together."""

    def __init__(self, points: Mapping[int, float] | None = None) -> None:
        self._points = {tokens: Mean(seconds) for tokens, seconds in (points or {}).items()}

    def add(self, tokens: int, seconds: float) -> None:
        """Take in one call."""
        if tokens in self._points:
            self._points[tokens].add(seconds)
        else:
            self._points[tokens] = Mean(seconds)

    def at(self, tokens: int) -> float:
        """Return the expected seconds: linear between what was seen, and beyond it as between the last two.

        More tokens never take less, though disturbed measurements may say so.
        """
        known = sorted(self._points)
        if not known:
            return 0.0
        if len(known) == 1 or tokens <= known[0]:
            return self._points[known[0]].seconds
        right = min(bisect.bisect_left(known, tokens), len(known) - 1)
        low, high = known[right - 1], known[right]
        below, above = self._points[low].seconds, self._points[high].seconds
        return below + max(above - below, 0.0) * (tokens - low) / (high - low)

    def least_from(self, tokens: int) -> float:
        """Return the fewest seconds that so many or more tokens were seen to take; infinite if they never were."""
        return min((mean.seconds for known, mean in self._points.items() if known >= tokens), default=math.inf)

    def to_json(self) -> dict[str, float]:
        """Return the points as JSON values."""
        return {str(tokens): mean.seconds for tokens, mean in sorted(self._points.items())}


class Costs:
    """The seconds that a round takes, by plan and number of rows.

    A plan that was taken lately costs what its rounds took. What another one costs follows from the calls that it is
    made of: a level of drafts and the target's pass cost what such calls cost with as many tokens.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._rounds: dict[tuple[str, int], Mean] = {}
        self._taken: dict[tuple[str, int], int] = {}  # the last turn of each of them
        self._draft, self._verify, self._rest = Curve(), Curve(), Curve()
        self._reading = Curve()

    def observe(self, plan: Plan, rows: int, spent: Spent) -> None:
        """Take note of a round.

        Args:
            plan: What it drafted.
            rows: Number of rows of the batch.
            spent: How long it took.
        """
        self._turn += 1
        key = str(plan), rows
        self._taken[key] = self._turn
        if key not in self._rounds:
            self._rounds[key] = Mean(spent.total)
            return
        self._rounds[key].add(spent.total)
        tokens = rows * plan.tree.size
        self._verify.add(tokens, spent.verify)
        self._rest.add(tokens, spent.total - spent.draft - spent.verify)
        if plan.feeds_draft:
            self._draft.add(rows * plan.drafts, spent.draft / plan.length)

    def observe_reading(self, tokens: int, seconds: float) -> None:
        """Take note of how long all models took to read so many tokens of one row."""
        self._reading.add(tokens, seconds)

    def reading(self, tokens: int) -> float:
        """Return the seconds that reading so many tokens of one row is expected to take; 0 if none were read yet."""
        return self._reading.at(tokens)

    def catching_up(self, tokens: int) -> float:
        """Return the seconds that the draft model is expected to take to read so many tokens, of all rows together."""
        return self._draft.at(tokens) if tokens else 0.0

    def tells(self, plan: Plan, rows: int) -> bool:
        """Return whether enough rounds of a plan were seen with about so many rows: half as many to twice as many."""
        alike = (mean.count for (name, of), mean in self._rounds.items() if name == str(plan) and _alike(of, rows))
        return sum(alike) >= TELLING

    def rows_seen(self, plan: Plan | None = None) -> list[int]:
        """Return the numbers of rows of which enough rounds of a plan, or of any, were seen; ascending."""
        names = {name for name, _ in self._rounds} if plan is None else {str(plan)}
        return sorted({rows for (name, rows), mean in self._rounds.items() if name in names and mean.count >= TELLING})

    def age(self, plan: Plan, rows: int) -> int:
        """Return how many rounds ago a plan was last taken with so many rows; ``STALE`` if that is not known."""
        key = str(plan), rows
        return self._turn - self._taken.get(key, 0) if key in self._rounds else STALE

    def seconds(self, plan: Plan, rows: int) -> float:
        """Return the seconds that a round is expected to take.

        Args:
            plan: What it would draft.
            rows: Number of rows of the batch.
        """
        seen = self._rounds.get((str(plan), rows))
        if seen is not None and seen.count >= TELLING and self.age(plan, rows) < STALE:
            return seen.seconds
        tokens = rows * plan.tree.size
        draft = self._draft.at(rows * plan.drafts) * plan.length if plan.feeds_draft else 0.0
        return draft + self._verify.at(tokens) + self._rest.at(tokens)

    def plain_seconds(self, rows: int) -> float | None:
        """Return the seconds that a round of plain decoding takes; None if too few were seen with about so many rows.

        Where drafts pay, plain rounds are few, and may have been seen in a slow moment. A pass over more tokens never
        takes less, so the rounds that drafted tell too how long a plain one takes at most.
        """
        plain = Plan.plain()
        if not self.tells(plain, rows):
            return None
        return min(self.seconds(plain, rows), self._verify.least_from(rows) + self._rest.least_from(rows))

    def to_json(self) -> dict[str, Any]:
        """Return the costs as JSON values."""
        rounds: dict[str, dict[str, float]] = {}
        for (plan, rows), mean in self._rounds.items():
            if mean.count >= TELLING:
                rounds.setdefault(plan, {})[str(rows)] = mean.seconds
        curves = {"draft": self._draft, "verify": self._verify, "rest": self._rest, "reading": self._reading}
        return {"rounds": rounds} | {name: curve.to_json() for name, curve in curves.items()}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Costs:
        """Read what ``to_json`` wrote."""
        costs = Costs()
        for plan, by_rows in value["rounds"].items():
            for rows, seconds in by_rows.items():
                costs._rounds[plan, int(rows)] = mean = Mean(float(seconds))
                mean.count = TELLING
        costs._draft, costs._verify, costs._rest, costs._reading = (
            Curve({int(tokens): float(seconds) for tokens, seconds in value.get(name, {}).items()})
            for name in ("draft", "verify", "rest", "reading")
        )
        return costs


def _alike(one: int, other: int) -> bool:
    """Return whether a batch has at most twice as many rows as another."""
    return max(one, other) <= 2 * min(one, other)
