"""The automatic plan: its choices, the cost of wrong ones, and that it changes no row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from spectr_runtime import Bundle, BundleError, Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.planning.calibration import calibration_file, load_costs, save_costs
from spectr_runtime.planning.costs import Costs
from spectr_runtime.planning.planner import PROBE, PROBE_EVERY, RACES, Acceptance, AutoPlanner

OpenDecoder = Callable[..., Decoder]
PROMPT = (1, 3, 2)
NONE = Plan.plain()


def flat_costs(seconds: dict[Plan, float]) -> Costs:
    return Costs((1,), (64,), {str(plan): ((seconds.get(plan, 100.0),),) for plan in RACES})


def test_costs_are_linear_between_what_was_measured() -> None:
    costs = Costs((1, 4), (10, 30), {str(NONE): ((1.0, 2.0), (4.0, 8.0))})
    assert costs.seconds(NONE, 1, 10) == 1.0
    assert costs.seconds(NONE, 1, 20) == 1.5
    assert costs.seconds(NONE, 2, 30) == 4.0
    assert costs.seconds(NONE, 9, 99) == 8.0
    assert costs.seconds(NONE, 0, 1) == 1.0
    assert Costs.from_json(costs.to_json()) == costs


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
    planner = AutoPlanner(flat_costs(seconds))
    for _ in range(400):
        plan = planner.choose(1, 64)
        planner.observe(plan, [min(accepted, plan.length)])
    assert planner.choose(1, 64) in (best, PROBE)


def test_a_pair_that_never_agrees_is_drafted_for_once_in_a_while() -> None:
    planner = AutoPlanner(flat_costs({NONE: 1.0, PROBE: 1.5}))
    taken: Counter[Plan] = Counter()
    for _ in range(20 * PROBE_EVERY):
        plan = planner.choose(1, 64)
        taken[plan] += 1
        planner.observe(plan, [0])
    assert 19 <= taken[PROBE] <= 60, "one in 256 rounds, and more at first"
    assert set(taken) == {NONE, PROBE}


def test_drafting_is_tried_before_it_is_given_up() -> None:
    planner = AutoPlanner(flat_costs({NONE: 1.0, PROBE: 2.0}))
    tried = 0
    while planner.choose(1, 64) == PROBE:
        planner.observe(PROBE, [0])
        tried += 1
    assert 1 <= tried <= 5


class Fickle:
    """A planner that takes another plan every round."""

    menu = RACES

    def __init__(self) -> None:
        self.turn = 0

    def choose(self, rows: int, longest: int) -> Plan:
        self.turn += 1
        return NONE if self.turn % 16 < 9 else RACES[self.turn % len(RACES)]

    def observe(self, plan: Plan, accepted: list[int]) -> None:
        pass


def texts(decoder: Decoder) -> dict[str, tuple[int, ...]]:
    requests = [
        Request(str(row), tuple(PROMPT * (row % 4) + PROMPT[: 1 + row % 2]), SamplingParams(max_tokens=30))
        for row in range(12)
    ]
    return {one.id: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)}


def test_whatever_the_planner_takes_the_text_is_that_of_a_race(open_decoder: OpenDecoder) -> None:
    expected = texts(open_decoder(Plan("race", 2, 3)))
    for batch_size in (1, 5):
        decoder = open_decoder("auto", batch_size=batch_size)
        decoder._planner = Fickle()
        assert texts(decoder) == expected
        assert len(decoder.rounds) > 3
    assert texts(open_decoder("auto")) == expected


def test_a_draft_that_stood_still_reads_what_was_written_meanwhile(open_decoder: OpenDecoder) -> None:
    """With the target as its own draft a race accepts every draft, unless the draft's cache has a gap."""
    decoder = open_decoder("auto", batch_size=4)
    assert decoder._pair.draft is not None
    decoder._pair.draft.logits_SV = decoder._pair.target.logits_SV  # type: ignore[attr-defined]
    decoder._planner = Fickle()
    drafted: list[tuple[Plan, list[int]]] = []
    decoder._planner.observe = lambda plan, accepted: drafted.append((plan, accepted))  # type: ignore[method-assign]
    texts(decoder)
    assert any(plan.drafts for plan, _ in drafted)
    assert all(count == plan.length for plan, accepted in drafted for count in accepted)


def test_kept_costs_are_found_again_for_the_same_machine(tmp_path: Path) -> None:
    bundle = cast(Bundle, SimpleNamespace(path=tmp_path))
    cpu, costs = torch.device("cpu"), flat_costs({})
    assert load_costs(bundle, "torch", cpu, 3, RACES) is None
    path = calibration_file(bundle, "torch", cpu, 3)
    save_costs(path, costs, {"date": "today"})
    assert load_costs(bundle, "torch", cpu, 3, RACES) == costs
    assert load_costs(bundle, "torch", cpu, 4, RACES) is None
    assert load_costs(bundle, "onnxruntime", cpu, 3, RACES) is None
    assert load_costs(bundle, "torch", cpu, 3, (*RACES, Plan("race", 9, 9))) is None, "of an older menu"
    path.write_text("{}")
    with pytest.raises(BundleError, match="is malformed: KeyError"):
        load_costs(bundle, "torch", cpu, 3, RACES)
