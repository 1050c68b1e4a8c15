"""The choice of the plan that the next round takes.

A planner may change the plan from round to round, according to costs and to the acceptance of the whole batch. A row's
text must not depend on that, or it would depend on its neighbours and on the clock. The rule of exponential races
writes the same text whatever is drafted, and plain decoding is the race without drafts, so ``AutoPlanner`` chooses
among these only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from spectr_runtime.bundle import Manifest
from spectr_runtime.drafting.proposal import Proposal
from spectr_runtime.planning.costs import Costs
from spectr_runtime.rows.drafting import DRAFT, TEXTS
from spectr_runtime.speculation.plan import AUTO, Plan, PlanChoice, check_plan
from spectr_runtime.speculation.timing import Spent

TEXT_RACES = (
    *(Plan("race", 1, length, TEXTS) for length in (2, 4, 8, 16)),
    *(Plan("race", 2, length, TEXTS) for length in (4, 8)),
)
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


def menu_of(choice: PlanChoice, manifest: Manifest) -> tuple[Plan, ...]:
    """Return every plan that rounds may take.

    Args:
        choice: A plan, or ``auto``.
        manifest: The bundle's manifest.

    Raises:
        UsageError: The plan needs the draft model, and the bundle has none.
    """
    check_plan(choice, manifest)
    if choice != AUTO:
        return (choice,)
    return tuple(plan for plan in (*RACES, *TEXT_RACES) if manifest.has_draft or not plan.feeds_draft)


class Lag(NamedTuple):
    """What the draft model lacks of the rows' texts.

    Attributes:
        tokens: How many tokens of all rows, beside those that a round feeds.
        left: How many tokens a row may still write; the mean of the rows.
    """

    tokens: int
    left: float


NO_LAG = Lag(0, 0.0)


class Planner(Protocol):
    """Chooses the plan of every round."""

    def choose(self, rows: int, proposals: Sequence[Proposal | None] = (), lag: Lag = NO_LAG) -> Plan:
        """Return the plan of the next round.

        Args:
            rows: Number of rows of the batch.
            proposals: What was looked up for each row.
            lag: What the draft model has to read before it can draft.
        """

    def put_off(self) -> None:
        """Take note that the plan that was chosen last is not taken now: the next choice is made in its place."""

    def prefers(self, plan: Plan, proposal: Proposal) -> bool:
        """Return whether a row takes what was looked up for it rather than what the draft model would draft."""

    def plain_seconds(self, rows: int) -> float | None:
        """Return the seconds that a round of plain decoding takes; None if that is not known."""

    def observe(self, plan: Plan, rows: int, accepted: Sequence[int], spent: Spent | None) -> None:
        """Take note of a round.

        Args:
            plan: The round's plan.
            rows: Number of rows of the batch, free ones included.
            accepted: How many drafts of the draft model each row accepted that had some.
            spent: How long the round took; None if that tells nothing of later ones.
        """


class FixedPlanner:
    """Chooses the same plan for all rounds.

    Args:
        plan: The plan.
    """

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def choose(self, rows: int, proposals: Sequence[Proposal | None] = (), lag: Lag = NO_LAG) -> Plan:
        """See ``Planner``."""
        return self._plan

    def put_off(self) -> None:
        """See ``Planner``."""

    def prefers(self, plan: Plan, proposal: Proposal) -> bool:
        """See ``Planner``."""
        return proposal.forced

    def plain_seconds(self, rows: int) -> float | None:
        """See ``Planner``."""
        return None

    def observe(self, plan: Plan, rows: int, accepted: Sequence[int], spent: Spent | None) -> None:
        """See ``Planner``."""


class AutoPlanner:
    """Chooses the race that promises most tokens per second, from the costs and the acceptance so far.

    What was looked up may be known before the plan is chosen, since a race writes the same text in any case.

    Args:
        costs: What is known of the costs of rounds; what rounds show is added.
        menu: The plans to choose from.
        measured: How often the target accepts a token of the draft, by the build's measurement; None if that is not
            known.
    """

    def __init__(self, costs: Costs, menu: Sequence[Plan] = RACES, measured: float | None = None) -> None:
        self.costs = costs
        self._menu = menu
        self._first = [plan for plan in FIRST if plan in menu]
        self._acceptance = Acceptance(measured)
        self._current = RACES[0]
        self._draftless = self._turn = 0
        self._before = 0, 0  # both, before the last choice

    def choose(self, rows: int, proposals: Sequence[Proposal | None] = (), lag: Lag = NO_LAG) -> Plan:
        """See ``Planner``."""
        self._before = self._draftless, self._turn
        found = [one for one in proposals if one is not None]
        menu = allowed(self._menu, found)

        def speed(plan: Plan) -> float:
            tokens = self._tokens(plan, rows, found)
            reading = self.costs.catching_up(lag.tokens) if plan.feeds_draft else 0.0
            rounds = max(lag.left * rows / tokens, 1.0)  # which share what is read
            return tokens / (self.costs.seconds(plan, rows) + reading / rounds)

        for plan in self._first:
            if plan in menu and not self.costs.tells(plan, rows):
                return plan
        best = max(menu, key=speed)
        if self._current not in menu or speed(best) > WORTH * speed(self._current):
            self._current = best
        self._turn += 1
        if self._current.drafts and self._turn % RETRY_EVERY == 0:
            return self._again(menu, rows, speed)
        self._draftless = 0 if self._current.feeds_draft else self._draftless + 1
        if PROBE in menu and self._draftless >= min(PROBE_EVERY, FIRST_PROBE * (1 + self._acceptance.tests)):
            self._draftless = 0
            return PROBE
        return self._current

    def put_off(self) -> None:
        """See ``Planner``."""
        self._draftless, self._turn = self._before

    def _again(self, menu: Sequence[Plan], rows: int, speed: Callable[[Plan], float]) -> Plan:
        """Return the most promising plan that was not taken for a while; the present one if none promises enough."""
        enough = RETRY_SHARE * speed(self._current)
        others = [plan for plan in menu if self.costs.age(plan, rows) >= RETRY_EVERY and speed(plan) >= enough]
        return max(others, key=speed, default=self._current)

    def _tokens(self, plan: Plan, rows: int, found: Sequence[Proposal]) -> float:
        """Return how many tokens a round is expected to write, for all rows."""
        alone = self._acceptance.expected_tokens(plan) if plan.feeds_draft else 1.0
        if not plan.drafts:
            return float(rows)
        more = (1 + one.promised(plan.drafts, plan.length) - alone for one in found)
        silent = sum(one.source is None for one in found)  # rows that draft nothing, whatever the plan
        return (rows - silent) * alone + silent + sum(one for one in more if one > 0)

    def prefers(self, plan: Plan, proposal: Proposal) -> bool:
        """See ``Planner``."""
        promised = 1 + proposal.promised(plan.drafts, plan.length)
        return proposal.forced or promised > self._acceptance.expected_tokens(plan)

    def plain_seconds(self, rows: int) -> float | None:
        """See ``Planner``."""
        return self.costs.plain_seconds(rows)

    def observe(self, plan: Plan, rows: int, accepted: Sequence[int], spent: Spent | None) -> None:
        """See ``Planner``."""
        if plan.feeds_draft:
            self._acceptance.observe(plan, accepted)
        if spent is not None:
            self.costs.observe(plan, rows, spent)


def allowed(menu: Sequence[Plan], found: Sequence[Proposal]) -> Sequence[Plan]:
    """Return the plans that give every row what its request asks for; what was looked up needs a plan with drafts.

    Args:
        menu: The plans to choose from.
        found: What was looked up, and what rows ask for.
    """
    if not any(one.paths for one in found):
        menu = [plan for plan in menu if plan.source != TEXTS]
    forced = [one for one in found if one.forced]
    if not forced:
        return menu
    drafting = any(one.source == DRAFT for one in forced)
    serving = [plan for plan in menu if plan.drafts and (plan.feeds_draft or not drafting)]
    depth = min(max(one.depth for one in forced), max((plan.length for plan in serving), default=0))
    return [plan for plan in serving if plan.length >= depth] or menu


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
