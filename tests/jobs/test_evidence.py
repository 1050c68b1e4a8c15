"""The audit's statistics on rows of table models: quiet on exact rows, loud on biased ones."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence

import pytest
import torch
from table_pair import table_scorer, write

from spectr_jobs.commands.evidence import FALSE_ALARMS, Evidence
from spectr_runtime import Plan, Request, SamplingParams
from spectr_runtime.rows.score import Score, TokenScore, Written
from spectr_select import RULES, Role, Selection
from spectr_select.chance import Chance
from spectr_select.rule import Round

PLAN = Plan("kseq", 3, 3)


def requests(count: int, **params: object) -> list[Request]:
    """Prompts of several lengths; rows end early at the end token, or after a dozen tokens."""
    wanted = SamplingParams(**{"max_tokens": 12} | params)  # type: ignore[arg-type]
    return [Request(f"row {row}", (1 + row % 4,) * (1 + row % 7), wanted) for row in range(count)]


def evidence_of(scores: Iterable[Score]) -> Evidence:
    evidence = Evidence(seed=0)
    for score in scores:
        evidence.add(score)
    return evidence


def scores(monkeypatch: pytest.MonkeyPatch, rows: Sequence[Written]) -> list[Score]:
    return list(table_scorer(monkeypatch, batch_size=128, tokens_per_call=16).score(rows))


def test_exact_rows_rarely_raise_an_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    found = scores(monkeypatch, write(monkeypatch, PLAN, requests(3_000), 128))
    assert {len(score.tokens) for score in found} == set(range(1, 13)), "lengths must depend on what is written"
    assert evidence_of(found).sound
    groups = [evidence_of(found[start : start + 20]) for start in range(0, 3_000, 20)]
    for name in groups[0].statistics:
        p_values = [group.statistics[name].p_value for group in groups]
        for level in (0.5, 0.1, 0.02):
            below = sum(p_value < level for p_value in p_values)
            assert below <= len(p_values) * level + 4 * (len(p_values) * level) ** 0.5, (name, level)


def lenient(drawn: Round, chance: Chance) -> Selection:
    """Accept one draft half again as readily as its probabilities allow: lenience, as it is sold for speed."""
    target_BV, draft_BV = drawn.target_BNV[:, 0].double(), drawn.draft_BPV[:, 0].double()
    token_B1 = drawn.tokens_BN[:, 1:]
    accepted_B = chance.first(1, (1.5 * target_BV.gather(1, token_B1) / draft_BV.gather(1, token_B1)).clamp(max=1)) == 0
    residual_BV = (target_BV - draft_BV).clamp(min=0)
    law_BV = torch.where(accepted_B[:, None], drawn.target_BNV[:, 1].double(), residual_BV)
    node_B1 = torch.where(accepted_B, 1, -1)[:, None]
    return Selection(node_B1, accepted_B.long(), chance.pick(Role.EMIT, 0, law_BV))


def test_a_rule_that_accepts_too_much_is_found_by_the_order_of_draft_to_target(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(RULES, "single", dataclasses.replace(RULES["single"], select=lenient))
    evidence = evidence_of(scores(monkeypatch, write(monkeypatch, Plan("single", 1, 1), requests(600), 128)))
    assert not evidence.sound
    assert evidence.impossible == 0
    found = evidence.statistics
    assert found["draft to target"].p_value < 1e-9
    assert found["draft to target"].distance > found["probability"].distance
    assert sum(evidence.by_ratio) / len(evidence.by_ratio) > 0.52, "drafts pile up at the high end"


@pytest.mark.parametrize("claimed", [{"temperature": 1.2}, {"temperature": 0.8}, {"min_p": 0.1}])
def test_rows_of_another_law_than_the_claimed_one_are_found(
    monkeypatch: pytest.MonkeyPatch, claimed: dict[str, float]
) -> None:
    rows = write(monkeypatch, PLAN, requests(600), 128)
    params = dataclasses.replace(rows[0].request.params, **claimed)  # type: ignore[arg-type]
    wrong = [dataclasses.replace(row, request=dataclasses.replace(row.request, params=params)) for row in rows]
    evidence = evidence_of(scores(monkeypatch, wrong))
    assert not evidence.sound
    assert evidence.statistics["probability"].p_value < evidence.threshold
    assert (evidence.impossible > 0) == ("min_p" in claimed)


def test_a_prompt_that_was_not_read_is_found_by_the_first_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = requests(600, max_tokens=1)
    blind = [dataclasses.replace(one, prompt=(1, *one.prompt[1:])) for one in asked]
    rows = write(monkeypatch, PLAN, blind, 128)
    wrong = [Written(request, row.token_ids) for request, row in zip(asked, rows, strict=True)]
    assert evidence_of(scores(monkeypatch, wrong)).statistics["first tokens"].p_value < FALSE_ALARMS


def test_answers_that_were_swapped_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write(monkeypatch, PLAN, requests(600), 128)
    swapped = [dataclasses.replace(row, token_ids=other.token_ids) for row, other in itertools.pairwise(rows)]
    assert not evidence_of(scores(monkeypatch, swapped)).sound


def test_greedy_rows_must_hold_the_best_tokens_and_give_no_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = write(monkeypatch, PLAN, requests(20, temperature=0), 20)
    evidence = evidence_of(scores(monkeypatch, rows))
    assert (evidence.greedy, evidence.by_ratio) == (sum(len(row.token_ids) for row in rows), [])
    assert (evidence.sound, evidence.p_value) == (True, 1.0)
    wrong = dataclasses.replace(rows[3], token_ids=tuple((token + 1) % 5 for token in rows[3].token_ids))
    evidence = evidence_of(scores(monkeypatch, [wrong]))
    assert not evidence.sound
    assert evidence.examples[0] == "token 0 of 'row 3'"


def test_without_a_draft_two_statistics_are_left_and_find_what_they_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def alone(rows: Sequence[Written]) -> Evidence:
        evidence = Evidence(seed=0, drafted=False)
        for score in table_scorer(monkeypatch, batch_size=128, tokens_per_call=16, roles=("target",)).score(rows):
            evidence.add(score)
        return evidence

    rows = write(monkeypatch, Plan.plain(), requests(600), 128)
    sound = alone(rows)
    assert (sound.sound, [*sound.statistics], sound.by_ratio) == (True, ["probability", "first tokens"], [])
    assert sound.threshold == FALSE_ALARMS / 2
    params = dataclasses.replace(rows[0].request.params, temperature=1.5)
    wrong = [dataclasses.replace(row, request=dataclasses.replace(row.request, params=params)) for row in rows]
    assert not alone(wrong).sound


def test_numbers_depend_on_the_seed_and_the_completion_alone() -> None:
    score = Score(Written(Request("a", (1,)), (2,)), (TokenScore(0.5, 0.25, 0.1, True),))
    again, other = Evidence(0), Evidence(1)
    for evidence in (again, other):
        evidence.add(score)
    assert again.by_ratio == evidence_of([score]).by_ratio != other.by_ratio
    assert 0.25 <= again.by_ratio[0] < 0.75
    assert again.by_ratio[0] - 0.25 == pytest.approx(again.by_probability[0] - 0.1)
