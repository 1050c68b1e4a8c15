"""The choice of the plan that the next round takes.

A planner may change the plan from round to round, according to costs and to the acceptance of the whole batch. A row's
text must not depend on that, or it would depend on its neighbours and on the clock. The rule of exponential races
writes the same text whatever is drafted, and plain decoding is the race without drafts, so ``AutoPlanner`` chooses
among these only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from spectr_runtime.planning.costs import Costs
from spectr_runtime.speculation.plan import AUTO, Plan, PlanChoice
from spectr_runtime.speculation.timing import Spent

RACES = (
    Plan.plain(),
    *(Plan("race", 1, length) for length in (1, 2, 4, 8)),  # lengths between these would gain one or two per cent
    *(Plan("race", drafts, length) for drafts in (2, 4) for length in (2, 4)),
)
# Where no costs are known with about so many rows, the first rounds take these: one call of one token a row and one of
# several show how the others would cost.
FIRST = (Plan.plain(), Plan("race", 1, 4))
# While rounds are decoded without a draft, nothing shows whether drafting would pay. So after some of them, one round
# drafts with this plan: after 8 of them at first, and after 256 once much has been seen.
PROBE = Plan("race", 1, 2)
PROBE_EVERY = 256
FIRST_PROBE = 8
# A cost that was learnt in a slow moment would keep a good plan away. So once in so many rounds, the most promising of
# those that were not taken since is taken again, unless it promises less than this share of the speed.
RETRY_EVERY, RETRY_SHARE = 16, 0.85
WORTH = 1.03  # the gain in speed that is worth a change of plan; smaller ones may be noise


def menu_of(choice: PlanChoice) -> tuple[Plan, ...]:
    """Return every plan that rounds may take."""
    return RACES if choice == AUTO else (choice,)


class Planner(Protocol):
    """Chooses the plan of every round."""

    def choose(self, rows: int) -> Plan:
        """Return the plan of the next round, before anything of it is drafted.

        Args:
            rows: Number of rows of the batch.
        """

    def observe(self, plan: Plan, rows: int, accepted: Sequence[int], spent: Spent) -> None:
        """Take note of a round.

        Args:
            plan: The round's plan.
            rows: Number of rows of the batch, free ones included.
            accepted: How many drafts each row accepted that is not free.
            spent: How long the round took.
        """


class FixedPlanner:
    """Chooses the same plan for all rounds.

    Args:
        plan: The plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def choose(self, rows: int) -> Plan:
        """See ``Planner``."""
        return self._plan

    def observe(self, plan: Plan, rows: int, accepted: Sequence[int], spent: Spent) -> None:
        """See ``Planner``."""


class AutoPlanner:
    """Chooses the race that promises most tokens per second, from the costs and the acceptance so far.

    Args:
        costs: What is known of the costs of rounds; what rounds show is added.
        measured: How often the target accepts a token of the draft, by the build's measurement; None if that is not
            known.
    """

    def __init__(self, costs: Costs, measured: float | None = None) -> None:
        self.costs = costs
        self._acceptance = Acceptance(measured)
        self._current = RACES[0]
        self._draftless = self._turn = 0

    def choose(self, rows: int) -> Plan:
        """See ``Planner``."""

        def speed(plan: Plan) -> float:
            return self._acceptance.expected_tokens(plan) / self.costs.seconds(plan, rows)

        for plan in FIRST:
            if not self.costs.tells(plan, rows):
                return plan
        best = max(RACES, key=speed)
        if speed(best) > WORTH * speed(self._current):
            self._current = best
        self._turn += 1
        if self._current.drafts and self._turn % RETRY_EVERY == 0:
            return self._again(rows, speed)
        self._draftless = 0 if self._current.drafts else self._draftless + 1
        if self._draftless >= min(PROBE_EVERY, FIRST_PROBE * (1 + self._acceptance.tests)):
            self._draftless = 0
            return PROBE
        return self._current

    def _again(self, rows: int, speed: Callable[[Plan], float]) -> Plan:
        """Return the most promising plan that was not taken for a while; the present one if none promises enough."""
        enough = RETRY_SHARE * speed(self._current)
        others = [plan for plan in RACES if self.costs.age(plan, rows) >= RETRY_EVERY and speed(plan) >= enough]
        return max(others, key=speed, default=self._current)

    def observe(self, plan: Plan, rows: int, accepted: Sequence[int], spent: Spent) -> None:
        """See ``Planner``."""
        self._acceptance.observe(plan, accepted)
        self.costs.observe(plan, rows, spent)


class Acceptance:
    """Estimates how often a race accepts one of the drafted siblings of a node, by the number of siblings.

    The K paths of a plan meet at the root, so at the first depth a race tests K siblings. Behind it every path runs
    alone, and each token is tested like a single draft. Older rounds weigh less.

    Each estimate starts from a guess that counts like ``PRIOR_TESTS`` tests. For a single draft the guess is three
    quarters. For more, the rejection rate falls with the square root of their number, as it does for races over Zipf
    laws. The guess is high on purpose: a plan that is overestimated is tested in the next round, a plan that is
    underestimated only by a probe. What a build has measured is no guess, and counts like ``MEASURED_TESTS``: where it
    says that a draft does not pay, few rounds are spent on looking.

    Args:
        measured: How often a single draft was accepted in a measurement; None if there was none.
    """

    PRIOR, PRIOR_TESTS, MEASURED_TESTS, KEPT = 0.75, 8.0, 16.0, 0.999

    def __init__(self, measured: float | None = None) -> None:
        self._prior, self._known = (self.PRIOR, 0.0) if measured is None else (measured, self.MEASURED_TESTS)
        self._tests: dict[int, float] = {}
        self._hits: dict[int, float] = {}

    def observe(self, plan: Plan, accepted: Sequence[int]) -> None:
        """Count the tests that a round made.

        Args:
            plan: The round's plan.
            accepted: How many drafts each row accepted.
        """
        if not plan.drafts:
            return
        for counts in (self._tests, self._hits):
            for siblings in counts:
                counts[siblings] *= self.KEPT
        for count in accepted:
            self._count(plan.drafts, 1, min(count, 1))
            # A row is tested once at every depth that it reaches: behind each accepted draft, up to the path's end.
            behind = min(count, plan.length - 1)
            self._count(1, behind, max(count - 1, 0))

    @property
    def tests(self) -> float:
        """How many single drafts were tested, those of a measurement among them; older ones count less."""
        return self._tests.get(1, 0.0) + self._known

    def rate(self, siblings: int) -> float:
        """Return the estimated probability that one of so many siblings is accepted."""
        prior = self._prior if siblings == 1 else 1 - (1 - self.rate(1)) * siblings**-0.5
        tests, hits = self._tests.get(siblings, 0.0), self._hits.get(siblings, 0.0)
        weight = max(self.PRIOR_TESTS, self._known)
        return (hits + weight * prior) / (tests + weight)

    def expected_tokens(self, plan: Plan) -> float:
        """Return how many tokens a round is expected to write for a row: the accepted drafts and one more."""
        if not plan.drafts:
            return 1.0
        single = self.rate(1)
        return 1 + self.rate(plan.drafts) * sum(single**depth for depth in range(plan.length))

    def _count(self, siblings: int, tests: int, hits: int) -> None:
        self._tests[siblings] = self._tests.get(siblings, 0.0) + tests
        self._hits[siblings] = self._hits.get(siblings, 0.0) + hits
