"""Which plan the next round takes.

A planner that changes its mind from round to round needs a rule whose text does not depend on the plan, or a row would
depend on its neighbours and on the clock. Exponential races are that rule: ``AutoPlanner`` chooses among races only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from spectr_runtime.planning.costs import Costs
from spectr_runtime.speculation.plan import AUTO, Plan, PlanChoice

RACES = (
    Plan("race", 0, 0),
    *(Plan("race", 1, length) for length in (1, 2, 4, 8)),  # what lies between gains a hundredth or two
    *(Plan("race", drafts, length) for drafts in (2, 4) for length in (2, 4)),
)
PROBE = Plan("race", 1, 2)
PROBE_EVERY = 256  # rounds without a draft, after which one round looks again whether drafting pays; fewer at first
FIRST_PROBE = 8
WORTH = 1.03  # gain for which the plan is changed, so that it does not flutter


def menu_of(choice: PlanChoice) -> tuple[Plan, ...]:
    """Every plan that rounds may take."""
    return RACES if choice == AUTO else (choice,)


class Planner(Protocol):
    """Chooses the plan of a round."""

    def choose(self, rows: int, longest: int) -> Plan:
        """The plan of the next round.

        Args:
            rows: Rows of the batch.
            longest: Tokens of its longest text.
        """

    def observe(self, plan: Plan, accepted: Sequence[int]) -> None:
        """Take note of the accepted drafts of a round's rows."""


class FixedPlanner:
    """One plan for all rounds.

    Args:
        plan: The plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def choose(self, rows: int, longest: int) -> Plan:
        """See ``Planner``."""
        return self._plan

    def observe(self, plan: Plan, accepted: Sequence[int]) -> None:
        """See ``Planner``."""


class AutoPlanner:
    """Takes the race that promises most tokens per second, from measured costs and the acceptance so far.

    Args:
        costs: Seconds of a round of every plan of ``RACES``.
    """

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self._acceptance = Acceptance()
        self._current = RACES[0]
        self._draftless = 0

    def choose(self, rows: int, longest: int) -> Plan:
        """See ``Planner``."""

        def speed(plan: Plan) -> float:
            return self._acceptance.expected_tokens(plan) / self._costs.seconds(plan, rows, longest)

        best = max(RACES, key=speed)
        if speed(best) > WORTH * speed(self._current):
            self._current = best
        self._draftless = 0 if self._current.drafts else self._draftless + 1
        if self._draftless >= min(PROBE_EVERY, FIRST_PROBE * (1 + self._acceptance.tests)):
            self._draftless = 0
            return PROBE
        return self._current

    def observe(self, plan: Plan, accepted: Sequence[int]) -> None:
        """See ``Planner``."""
        self._acceptance.observe(plan, accepted)


class Acceptance:
    """How often a race accepts at the first depth, by the number of siblings, with older rounds weighing less.

    A path's tokens behind the first one have no siblings, so they are accepted like a single draft. Each number of
    siblings starts from a guess worth ``PRIOR_TESTS`` tests: three quarters for one, and for more what the races over
    Zipf laws show, a rejection rate that falls with the root of their number. The guess is high, since hope is put to
    the test in the next round, and doubt only by a probe.
    """

    PRIOR, PRIOR_TESTS, KEPT = 0.75, 8.0, 0.999

    def __init__(self) -> None:
        self._tests: dict[int, float] = {}
        self._hits: dict[int, float] = {}

    def observe(self, plan: Plan, accepted: Sequence[int]) -> None:
        """Count the tests of a round's rows."""
        if not plan.drafts:
            return
        for counts in (self._tests, self._hits):
            for siblings in counts:
                counts[siblings] *= self.KEPT
        for count in accepted:
            self._count(plan.drafts, 1, min(count, 1))
            behind = min(count, plan.length - 1)  # tests behind the first depth; each but the last was passed
            self._count(1, behind, max(count - 1, 0))

    @property
    def tests(self) -> float:
        """Single drafts tested, older ones weighing less."""
        return self._tests.get(1, 0.0)

    def rate(self, siblings: int) -> float:
        """Estimated probability that one of so many siblings is accepted."""
        prior = self.PRIOR if siblings == 1 else 1 - (1 - self.rate(1)) * siblings**-0.5
        tests, hits = self._tests.get(siblings, 0.0), self._hits.get(siblings, 0.0)
        return (hits + self.PRIOR_TESTS * prior) / (tests + self.PRIOR_TESTS)

    def expected_tokens(self, plan: Plan) -> float:
        """Tokens that a round is expected to write for a row: one, and the accepted drafts."""
        if not plan.drafts:
            return 1.0
        single = self.rate(1)
        return 1 + self.rate(plan.drafts) * sum(single**depth for depth in range(plan.length))

    def _count(self, siblings: int, tests: int, hits: int) -> None:
        self._tests[siblings] = self._tests.get(siblings, 0.0) + tests
        self._hits[siblings] = self._hits.get(siblings, 0.0) + hits
