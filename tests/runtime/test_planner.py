"""The automatic plan: its choices, the cost of wrong ones, and that it changes no row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from spectr_runtime import Bundle, BundleError, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.drafting.proposal import Proposal
from spectr_runtime.planning.calibration import cache_file, calibration_file, keep_costs, load_costs, save_costs
from spectr_runtime.planning.costs import STALE, TELLING, Costs, Spent
from spectr_runtime.planning.planner import FIRST, PROBE, PROBE_EVERY, RACES, RETRY_EVERY, Acceptance, AutoPlanner

OpenDecoder = Callable[..., Decoder]
PROMPT = (1, 3, 2)
NONE = Plan.plain()


def costs_of(seconds: dict[Plan, float], rows: int = 1, default: float = 100.0) -> Costs:
    """What is known when every race was taken often."""
    costs = Costs()
    for plan in RACES:
        for _ in range(TELLING):
            total = seconds.get(plan, default)
            costs.observe(plan, rows, Spent(total, total / 4 if plan.drafts else 0.0, total / 2))
    return costs


def test_a_plan_that_was_taken_costs_what_its_rounds_took() -> None:
    costs = Costs()
    assert not costs.tells(NONE, 2)
    costs.observe(NONE, 2, Spent(9.0, 0.0, 8.0))
    assert not costs.tells(NONE, 2), "the first round allocates"
    costs.observe(NONE, 2, Spent(1.0, 0.0, 0.9))
    assert costs.tells(NONE, 2)
    assert costs.seconds(NONE, 2) == 1.0
    for _ in range(200):
        costs.observe(NONE, 2, Spent(2.0, 0.0, 1.8))
    assert costs.seconds(NONE, 2) == pytest.approx(2.0, rel=1e-3), "texts are longer now"
    costs.observe(NONE, 2, Spent(1000.0, 0.0, 1000.0))
    assert costs.seconds(NONE, 2) < 2.5, "a disturbed round counts for little"


def test_a_plan_that_was_not_taken_costs_what_its_calls_would() -> None:
    """Here a level of drafts takes 1 second, the target's pass 10 and one per token, and the rest 1."""
    costs = Costs()

    def take(plan: Plan, rows: int) -> None:
        draft, verify = float(plan.length), 10.0 + rows * plan.tree.size
        costs.observe(plan, rows, Spent(draft + verify + 1, draft, verify))

    for plan in FIRST * TELLING:
        take(plan, 2)
    for plan in (Plan("race", 1, 2), Plan("race", 1, 8), Plan("race", 2, 4)):
        assert costs.seconds(plan, 2) == pytest.approx(plan.length + 10 + 2 * plan.tree.size + 1)
    assert costs.seconds(Plan("race", 1, 4), 3) == pytest.approx(4 + 10 + 3 * 5 + 1), "with another number of rows"


def test_a_disturbed_measurement_promises_no_round_for_nothing() -> None:
    costs = Costs()
    for plan, verify in ((NONE, 9.0), (Plan("race", 1, 4), 1.0)) * TELLING:
        costs.observe(plan, 1, Spent(verify + 1, 0.0, verify))
    assert all(costs.seconds(plan, rows) >= 1 for plan in RACES for rows in (1, 2, 64))


def test_a_cost_that_is_out_of_date_gives_way_to_what_calls_take_now() -> None:
    costs, slow = Costs(), Plan("race", 1, 2)
    for _ in range(TELLING):
        costs.observe(slow, 1, Spent(50.0, 10.0, 40.0))
    for _ in range(STALE // 2):
        for plan in FIRST:
            costs.observe(plan, 1, Spent(1.0, 0.1 * plan.length, 0.5))
    assert costs.seconds(slow, 1) < 50


def test_costs_survive_as_json() -> None:
    costs = costs_of({NONE: 1.0, PROBE: 1.5}, rows=3)
    again = Costs.from_json(json.loads(json.dumps(costs.to_json())))
    assert again.to_json() == costs.to_json()
    assert again.rows_seen() == [3]
    assert all(again.seconds(plan, rows) == costs.seconds(plan, rows) for plan in RACES for rows in (1, 3))


def test_the_first_rounds_show_what_rounds_cost() -> None:
    planner, taken = AutoPlanner(Costs()), []
    for _ in range(6):
        plan = planner.choose(4)
        taken.append(plan)
        planner.observe(plan, 4, [0] * 4, Spent(1.0 + plan.length, 0.5 * plan.length, 0.4 + plan.length / 4))
    assert taken[:4] == [FIRST[0], FIRST[0], FIRST[1], FIRST[1]]


def test_a_round_of_plain_decoding_costs_what_its_rounds_took_and_nothing_is_said_before() -> None:
    planner = AutoPlanner(Costs())
    planner.observe(Plan("race", 1, 4), 4, [0] * 4, Spent(9.0, 4.0, 4.0))
    planner.observe(NONE, 4, [], Spent(2.0, 0.0, 1.0))
    assert planner.plain_seconds(4) is None
    planner.observe(NONE, 4, [], Spent(2.0, 0.0, 1.0))
    assert planner.plain_seconds(4) == 2.0
    assert planner.plain_seconds(16) is None
    for _ in range(2):  # a pass over more tokens takes less than a plain one did, which was seen in a slow moment
        planner.observe(Plan("race", 1, 1), 4, [0] * 4, Spent(1.5, 0.25, 1.0))
    assert planner.plain_seconds(4) == 1.25


def test_acceptance_is_counted_by_siblings_and_chained_behind_them() -> None:
    acceptance = Acceptance()
    for _ in range(2_000):
        acceptance.observe(Plan("race", 2, 3), [0, 1, 1, 3])
    assert acceptance.rate(2) == pytest.approx(3 / 4, abs=0.02)
    assert acceptance.rate(1) == pytest.approx(2 / 4, abs=0.02), "of four tests behind the first depth two passed"
    assert acceptance.expected_tokens(Plan("race", 2, 3)) == pytest.approx(1 + 0.75 * (1 + 0.5 + 0.25), abs=0.05)
    assert acceptance.expected_tokens(NONE) == 1


@pytest.mark.parametrize(
    ("seconds", "accepted", "best"),
    [
        ({NONE: 1.0, Plan("race", 1, 4): 1.5}, 4, Plan("race", 1, 4)),
        ({NONE: 1.0, Plan("race", 1, 4): 1.5}, 0, NONE),
        ({NONE: 1.0, Plan("race", 1, 4): 4.9, Plan("race", 1, 2): 2.0}, 4, Plan("race", 1, 2)),
    ],
)
def test_the_fastest_plan_is_taken(seconds: dict[Plan, float], accepted: int, best: Plan) -> None:
    planner = AutoPlanner(costs_of(seconds))
    for _ in range(400):
        plan = planner.choose(1)
        planner.observe(plan, 1, [min(accepted, plan.length)], spent(seconds.get(plan, 100.0), plan))
    assert planner.choose(1) in (best, PROBE)


def test_costs_of_many_rows_say_nothing_of_one() -> None:
    """A call of eight tokens was the shortest of eight rows; of what shorter ones cost it says nothing."""
    planner = AutoPlanner(costs_of({NONE: 8.0}, rows=8))
    assert [planner.costs.tells(NONE, rows) for rows in (1, 3, 4, 8, 16, 17)] == [False, False, True, True, True, False]
    for plan in FIRST:
        for _ in range(TELLING):
            assert planner.choose(1) == plan
            planner.observe(plan, 1, [0], spent(1.0, plan))
    assert all(planner.costs.tells(plan, rows) for plan in FIRST for rows in (1, 2))
    assert planner.choose(8) == NONE, "what was learnt of eight rows is still known"


def spent(total: float, plan: Plan) -> Spent:
    return Spent(total, total / 4 if plan.drafts else 0.0, total / 2)


def test_a_pair_that_never_agrees_is_drafted_for_once_in_a_while() -> None:
    seconds = {NONE: 1.0, PROBE: 1.5}
    planner = AutoPlanner(costs_of(seconds))
    taken: Counter[Plan] = Counter()
    for _ in range(20 * PROBE_EVERY):
        plan = planner.choose(1)
        taken[plan] += 1
        planner.observe(plan, 1, [0], spent(seconds.get(plan, 100.0), plan))
    assert 19 <= taken[PROBE] <= 60, "one in 256 rounds, and more at first"
    assert taken[NONE] + taken[PROBE] >= 0.99 * sum(taken.values())


def test_what_is_put_off_is_chosen_again() -> None:
    """Rounds that are issued ahead cannot take a draft at once that was not fed in the round before."""
    seconds = {NONE: 1.0, PROBE: 1.5}
    at_once, later = (AutoPlanner(costs_of(seconds)) for _ in range(2))
    for _ in range(3 * PROBE_EVERY):
        plan = at_once.choose(1)
        if later.choose(1).drafts:
            later.put_off()
            assert later.choose(1) == plan
        for planner in (at_once, later):
            planner.observe(plan, 1, [0], spent(seconds.get(plan, 100.0), plan))


def test_a_cost_that_was_learnt_in_a_slow_moment_is_learnt_again() -> None:
    """The best plan seemed to take one and a half times what it takes, which is found out within some rounds."""
    best, other = Plan("race", 1, 8), Plan("race", 1, 4)
    truth = {NONE: 1.0, other: 1.5, best: 1.7}
    planner = AutoPlanner(costs_of(truth | {best: 1.5 * 1.7}))
    taken: list[Plan] = []
    for _ in range(20 * RETRY_EVERY):
        plan = planner.choose(1)
        taken.append(plan)
        planner.observe(plan, 1, [plan.length], spent(truth.get(plan, 100.0), plan))
    assert taken[5] == other
    assert taken[-RETRY_EVERY:].count(best) >= RETRY_EVERY - 2
    assert sum(truth.get(plan, 100.0) > 90 for plan in taken) <= 1, "what promises little is not tried again"


@pytest.mark.parametrize(("measured", "soon"), [(None, True), (0.05, False), (0.9, True)])
def test_where_a_build_has_seen_that_drafts_are_refused_few_rounds_look_for_it(
    measured: float | None, soon: bool
) -> None:
    """What is refused all the same is given up, and what is accepted all the same is found, a little later."""
    for accepted in (0, 4):
        planner, taken = (
            AutoPlanner(costs_of({NONE: 1.0, **{plan: 2.0 for plan in RACES if plan.drafts}}), measured=measured),
            [],
        )
        for _ in range(1200):
            plan = planner.choose(1)
            taken.append(plan)
            planner.observe(plan, 1, [min(accepted, plan.length)], spent(1.0 if plan == NONE else 2.0, plan))
        assert any(plan.drafts for plan in taken[:60]) == soon
        assert sum(bool(plan.drafts) for plan in taken[-300:]) in (range(8) if not accepted else range(290, 301))


def test_drafting_is_tried_before_it_is_given_up() -> None:
    planner = AutoPlanner(costs_of({NONE: 1.0, PROBE: 2.0}))
    tried = 0
    while planner.choose(1) == PROBE:
        planner.observe(PROBE, 1, [0], spent(2.0, PROBE))
        tried += 1
    assert 1 <= tried <= 5


class Fickle:
    """A planner that takes another plan every round."""

    menu = RACES

    def __init__(self) -> None:
        self.turn = 0

    def choose(self, rows: int, *found: object) -> Plan:
        self.turn += 1
        return NONE if self.turn % 16 < 9 else RACES[self.turn % len(RACES)]

    def put_off(self) -> None: ...

    def prefers(self, plan: Plan, proposal: object) -> bool:
        return False

    def plain_seconds(self, rows: int) -> None:
        pass

    def observe(self, plan: Plan, rows: int, accepted: list[int], spent: Spent) -> None:
        pass


def texts(decoder: Decoder) -> dict[str, tuple[int, ...]]:
    requests = [
        Request(str(row), tuple(PROMPT * (row % 4) + PROMPT[: 1 + row % 2]), SamplingParams(max_tokens=30))
        for row in range(12)
    ]
    return {one.id: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)}


def test_whatever_the_planner_takes_the_text_is_that_of_plain_decoding(open_decoder: OpenDecoder) -> None:
    expected = texts(open_decoder(Plan.plain()))
    assert texts(open_decoder(Plan("race", 2, 3))) == expected
    for batch_size in (1, 5):
        decoder = open_decoder("auto", batch_size=batch_size)
        decoder._loop._chooser.planner = Fickle()
        assert texts(decoder) == expected
        assert len(decoder.rounds) > 3
    assert texts(open_decoder("auto")) == expected


def test_a_draft_that_stood_still_reads_what_was_written_meanwhile(open_decoder: OpenDecoder) -> None:
    """With the target as its own draft a race accepts every draft, unless the draft's cache has a gap."""
    decoder = open_decoder("auto", batch_size=4)
    assert decoder._loop.pair.draft is not None
    decoder._loop.pair.draft.logits_SV = decoder._loop.pair.target.logits_SV  # type: ignore[attr-defined]
    decoder._loop._chooser.planner = Fickle()
    drafted: list[tuple[Plan, list[int]]] = []
    decoder._loop._chooser.planner.observe = lambda plan, _, accepted, __: drafted.append((plan, accepted))  # type: ignore[method-assign]
    texts(decoder)
    assert any(plan.drafts for plan, _ in drafted)
    assert all(count == plan.length for plan, accepted in drafted for count in accepted)


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cast(Bundle, SimpleNamespace(path=tmp_path / "bundle", sha256="a" * 64))


CPU = torch.device("cpu")


def test_kept_costs_are_found_again_for_the_same_machine_and_backend(bundle: Bundle) -> None:
    costs = costs_of({})
    assert not load_costs(bundle, "torch", CPU).rows_seen()
    path = calibration_file(bundle, "torch", CPU)
    save_costs(path, costs, {"date": "today"})
    assert load_costs(bundle, "torch", CPU).to_json() == costs.to_json()
    assert not load_costs(bundle, "onnxruntime", CPU).rows_seen()
    path.write_text("{}")
    with pytest.raises(BundleError, match="is malformed: KeyError"):
        load_costs(bundle, "torch", CPU)


def test_what_a_run_learnt_comes_before_what_the_bundle_has(bundle: Bundle) -> None:
    learnt = costs_of({}, rows=2)
    save_costs(calibration_file(bundle, "torch", CPU), costs_of({}, rows=1), {})
    keep_costs(bundle, "torch", CPU, learnt)
    assert load_costs(bundle, "torch", CPU).rows_seen() == [2]
    path = cache_file(bundle, "torch", CPU)
    assert path is not None
    path.write_text('{"costs": []}')
    assert load_costs(bundle, "torch", CPU).rows_seen() == [1], "a damaged file of the cache is passed over"


def test_costs_of_another_bundle_are_another_file(bundle: Bundle) -> None:
    keep_costs(bundle, "torch", CPU, costs_of({}))
    other = cast(Bundle, SimpleNamespace(path=bundle.path, sha256="b" * 64))
    assert not load_costs(other, "torch", CPU).rows_seen()


def test_a_cache_that_cannot_be_written_hinders_nothing(bundle: Bundle, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    keep_costs(bundle, "torch", CPU, costs_of({}))
    assert not load_costs(bundle, "torch", CPU).rows_seen()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    keep_costs(bundle, "torch", CPU, costs_of({}))
    assert cache_file(bundle, "torch", CPU) is None


def no_home() -> Path:
    raise RuntimeError("Could not determine home directory.")


def test_a_decoder_goes_on_with_what_an_earlier_one_learnt(open_decoder: OpenDecoder) -> None:
    first = open_decoder("auto")
    assert isinstance(first._loop._chooser.planner, AutoPlanner)
    texts(first)
    assert first._loop._chooser.planner.costs.rows_seen()
    again = open_decoder("auto")._loop._chooser.planner
    assert isinstance(again, AutoPlanner)
    assert again.costs.to_json() == first._loop._chooser.planner.costs.to_json()


def test_rows_that_draft_nothing_pay_for_no_drafts() -> None:
    best = Plan("race", 1, 4)
    planner = AutoPlanner(costs_of({NONE: 1.0, best: 1.5}, rows=2), measured=0.9)
    assert planner.choose(2) == best
    assert planner.choose(2, [Proposal(None), Proposal(None)]) == NONE
    assert planner.choose(2, [Proposal(None), None]) == best, "one of two rows drafts, which pays here"
