"""The plan of a round when it is known what was looked up, and what is given to the rows under it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from spectr_runtime import Plan, Request
from spectr_runtime.drafting.corpus import Corpus
from spectr_runtime.drafting.proposal import Proposal
from spectr_runtime.planning.choice import Chooser, open_texts
from spectr_runtime.planning.costs import TELLING, Costs, Spent
from spectr_runtime.planning.planner import RACES, TEXT_RACES, AutoPlanner, FixedPlanner, allowed
from spectr_runtime.rows.drafting import DraftChoice
from spectr_runtime.rows.row import Row
from spectr_runtime.speculation.plan import PlanChoice
from spectr_runtime.speculation.timing import Timing

NONE = Plan.plain()
MENU = (*RACES, *TEXT_RACES)
WITHOUT_DRAFT = (NONE, *TEXT_RACES)
LONG = Proposal("lookup", (tuple(range(1, 17)),), 20, tuple(0.95 * (depth + 1) for depth in range(16)))
POOR = Proposal("lookup", ((1, 2, 3, 4),), 2, (0.01, 0.02, 0.02, 0.02))


def spent_on(plan: Plan, rows: int, token: float, level: float = 1.0) -> Spent:
    """A pass of the target takes 10 seconds and some for each token, a level of drafts some more."""
    draft, verify = level * plan.length if plan.feeds_draft else 0.0, 10 + token * rows * plan.tree.size
    return Spent(draft + verify, draft, verify)


def planner_of(menu: Sequence[Plan], rows: int, token: float, level: float = 1.0) -> AutoPlanner:
    costs = Costs()
    for plan in menu * TELLING:
        costs.observe(plan, rows, spent_on(plan, rows, token, level))
    return AutoPlanner(costs, menu)


def plans(planner: AutoPlanner, proposals: Sequence[Proposal | None], rounds: int, token: float) -> list[Plan]:
    taken = list[Plan]()
    for _ in range(rounds):
        plan = planner.choose(len(proposals), proposals)
        taken.append(plan)
        planner.observe(plan, len(proposals), [], spent_on(plan, len(proposals), token))
    return taken


@pytest.mark.parametrize("token", [0.0, 0.1, 5.0])
def test_rows_for_which_nothing_is_found_are_decoded_plainly(token: float) -> None:
    assert set(plans(planner_of(WITHOUT_DRAFT, 4, token), [None] * 4, 600, token)) == {NONE}
    nothing = [Proposal(None), None]
    assert set(plans(planner_of(WITHOUT_DRAFT, 2, token), nothing, 60, token)) == {NONE}


@pytest.mark.parametrize(
    ("token", "proposals", "best"),
    [
        (0.001, [LONG] * 4, {Plan("race", 1, 16, "texts")}),
        (0.001, [LONG, None, None, None], {Plan("race", 1, 16, "texts")}),
        (30.0, [LONG, None, None, None], {NONE}),
        (0.001, [POOR] * 4, {NONE}),
        (1.0, [POOR] * 4, {NONE}),
        # The first path of a token pays here even if three rows carry it along for nothing, and sixteen tokens do not.
        (1.0, [LONG] * 4, {Plan("race", 1, 8, "texts"), Plan("race", 1, 16, "texts")}),
    ],
)
def test_what_promises_much_is_drafted_where_tokens_are_cheap(
    token: float, proposals: list[Proposal | None], best: set[Plan]
) -> None:
    taken = plans(planner_of(WITHOUT_DRAFT, 4, token), proposals, 64, token)
    assert sum(plan in best for plan in taken) >= 56, "some rounds try again what seemed slow"


def test_a_draft_model_that_costs_much_gives_way_to_what_is_found() -> None:
    found = LONG._replace(paths=((1, 2, 3, 4),), promise=LONG.promise[:4])
    assert planner_of(MENU, 2, 0.001, level=100.0).choose(2, [found, None]).source == "texts"
    plan = planner_of(MENU, 2, 0.001, level=0.001).choose(2, [found, None])
    assert plan.feeds_draft, "it serves the row for which nothing was found too"


def test_a_row_takes_what_promises_more() -> None:
    planner, plan = planner_of(MENU, 2, 0.1), Plan("race", 1, 8)
    assert planner.prefers(plan, LONG)
    assert not planner.prefers(plan, POOR)
    assert planner.prefers(plan, POOR._replace(forced=True))
    assert not FixedPlanner(plan).prefers(plan, LONG)
    alone = planner._tokens(plan, 2, [])
    assert planner._tokens(plan, 2, [POOR]) == alone, "what a row does not take does not speak against the plan"
    assert planner._tokens(plan, 2, [LONG]) > alone


def test_only_what_was_found_brings_plans_that_draft_from_texts() -> None:
    assert [*allowed(MENU, [])] == [*allowed(MENU, [Proposal(None)])] == [*RACES]
    assert [*allowed(MENU, [POOR])] == [*MENU]


@pytest.mark.parametrize(
    ("found", "least", "draft_only"),
    [
        ([LONG._replace(forced=True)], 16, False),
        ([POOR._replace(forced=True), LONG], 4, False),
        ([POOR._replace(paths=((1,),), forced=True)], 1, False),
        ([Proposal("draft", forced=True), LONG], 1, True),
        ([Proposal("draft", forced=True), LONG._replace(forced=True)], 8, True),
    ],
)
def test_plans_serve_what_requests_ask_for(found: list[Proposal], least: int, draft_only: bool) -> None:
    serving = allowed(MENU, found)
    assert [*serving] == [
        plan for plan in MENU if plan.drafts and plan.length >= least and (plan.feeds_draft or not draft_only)
    ]
    planner = planner_of(MENU, 2, 30.0)
    taken = {planner.choose(2, found) for _ in range(40)}
    assert taken <= set(serving)
    assert NONE in {planner_of(MENU, 2, 30.0).choose(2, [one._replace(forced=False) for one in found])}


def row_of(*tokens: int, draft: DraftChoice | None = None) -> Row:
    return Row(Request("row", tokens, draft=draft), tokens, 0, frozenset(), 1000, None)  # type: ignore[arg-type]


def chooser_of(choice: PlanChoice, menu: Sequence[Plan], planner: AutoPlanner | FixedPlanner) -> Chooser:
    return Chooser(planner, open_texts(choice, menu, Corpus(1000)), Timing())


REPEATS = (1, 2, 3, 4, 1, 2)


def test_what_is_found_is_given_to_its_row() -> None:
    plan = Plan("race", 2, 4, "lookup")
    chooser = chooser_of(plan, (plan,), FixedPlanner(plan))
    chosen, (found, nothing, none, free) = chooser.choose(
        [row_of(*REPEATS), row_of(1, 2, 3), row_of(*REPEATS, draft=DraftChoice(None)), None], 4
    )
    assert chosen == plan
    assert found is not None
    assert found.paths == ((3, 4, 1, 2),)
    assert (nothing, none, free) == (None, Proposal(None), None)


def test_a_race_that_drafts_from_the_model_gives_what_requests_ask_for() -> None:
    batch = [row_of(*REPEATS), row_of(*REPEATS, draft=DraftChoice("lookup")), row_of(1, draft=DraftChoice("draft"))]
    plan = Plan("race", 2, 4)
    _, (own, asked, model) = chooser_of(plan, (plan,), FixedPlanner(plan)).choose(batch, len(batch))
    assert own is None
    assert asked is not None
    assert (asked.source, asked.paths) == ("lookup", ((3, 4, 1, 2),))
    assert model == Proposal("draft", forced=True)


def test_the_automatic_plan_gives_a_row_what_it_prefers() -> None:
    planner = planner_of(MENU, 2, 0.001, level=0.001)
    chooser = chooser_of("auto", MENU, planner)
    doubtful = row_of(*REPEATS)
    plan, offers = chooser.choose([doubtful, row_of(1, 2, 3)], 2)
    assert plan.feeds_draft
    assert offers == [None, None], "a draft that costs nothing and is said to be right three times in four"
    for _ in range(400):
        planner._acceptance.observe(plan, [0])
    plan, (given, _) = chooser.choose([doubtful, row_of(1, 2, 3)], 2)
    assert given is not None
    assert given.paths[0][:2] == (3, 4)
