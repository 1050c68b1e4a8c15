"""A row can be watched: what each of its rounds drafted, kept and wrote."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from spectr_runtime import Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.planning import choice
from spectr_runtime.rows.rounds import RowRound
from spectr_runtime.speculation.plan import AUTO, PlanChoice

OpenDecoder = Callable[..., Decoder]
PROMPT = (1, 3, 2)
PLANS: list[PlanChoice] = [
    Plan.plain(),
    Plan("single", 1, 3),
    Plan("kseq", 3, 2),
    Plan("race", 2, 4),
    Plan("race", 2, 4, "lookup"),
    Plan("single", 1, 3, "lookup"),
    AUTO,
]


def requests(count: int = 6, prompt: tuple[int, ...] = PROMPT, **fields: object) -> list[Request]:
    return [
        Request(f"row {n}", prompt, SamplingParams(max_tokens=9 + n, temperature=0.7), **fields)  # type: ignore[arg-type]
        for n in range(count)
    ]


def decoded(decoder: Decoder, asked: list[Request]) -> dict[str, Completion]:
    return {one.id: one for one in decoder.generate(asked) if isinstance(one, Completion)}


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_rounds_of_a_row_add_up_to_it(open_decoder: OpenDecoder, plan: PlanChoice) -> None:
    seen: list[RowRound] = []
    rows = decoded(open_decoder(plan), requests(watch=seen.append))
    assert len(rows) == 6
    for name, row in rows.items():
        rounds = [one for one in seen if one.id == name]
        assert [one.number for one in rounds] == [*range(1, row.speculation.rounds + 1)]
        assert sum((one.written for one in rounds), ()) == row.token_ids
        assert [one.position for one in rounds] == [sum(len(o.written) for o in rounds[:n]) for n in range(len(rounds))]
        for source, did in row.speculation.sources.items():
            of = [one for one in rounds if one.source == source]
            assert (len(of), sum(len(one.accepted) for one in of)) == (did.rounds, did.accepted)
            assert sum(max(map(len, one.paths)) for one in of) == did.proposed


@pytest.mark.parametrize("plan", PLANS[:4], ids=str)
def test_what_was_kept_stands_in_the_drafted_tree(open_decoder: OpenDecoder, plan: Plan) -> None:
    seen: list[RowRound] = []
    decoded(open_decoder(plan), requests(watch=seen.append))
    assert any(one.accepted for one in seen) == (plan.drafts > 0)
    for one in seen:
        assert one.plan == str(plan)
        assert [len(path) for path in one.paths] == [plan.length] * plan.drafts
        assert not one.accepted or one.accepted in {path[: len(one.accepted)] for path in one.paths}


def test_a_path_that_only_fills_the_tree_is_left_out(open_decoder: OpenDecoder) -> None:
    seen: list[RowRound] = []
    decoded(open_decoder(Plan("race", 4, 2, "lookup")), requests(6, (1, 2, 3, 1, 2, 4, 1, 2), watch=seen.append))
    looked = [one for one in seen if one.source == "lookup"]
    assert {len(one.paths) for one in looked} >= {1, 2}
    assert all(len(set(one.paths)) == len(one.paths) for one in looked)
    assert all(not one.paths for one in seen if one.source is None)


def test_only_the_rows_that_are_watched_are_told_of(open_decoder: OpenDecoder) -> None:
    seen: list[RowRound] = []
    first, *others = requests()
    decoded(open_decoder(Plan("kseq", 2, 3)), [*others, dataclasses.replace(first, watch=seen.append)])
    assert {one.id for one in seen} == {"row 0"}


def test_a_watched_row_is_the_same_row_and_nobody_s_watch_waits_for_no_drafts(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = Plan("kseq", 2, 3)
    watched = decoded(open_decoder(plan), requests(watch=lambda one: None))
    looked: list[object] = []
    monkeypatch.setattr(choice, "paths_of", lambda *of: looked.append(of) or ())
    assert decoded(open_decoder(plan), requests()) == watched
    assert not looked
    decoded(open_decoder(plan), requests(watch=lambda one: None))
    assert looked


def test_what_plain_decoding_would_take_is_told_where_plain_rounds_were_seen(open_decoder: OpenDecoder) -> None:
    decoder = open_decoder(AUTO)
    rows = decoded(decoder, requests(40))
    assert 0 < decoder.plain.rounds <= sum(decoder.rounds.values())
    assert decoder.plain.spent > 0
    assert decoder.plain.plain > 0
    fixed = open_decoder(Plan("race", 2, 4))
    assert decoded(fixed, requests(40)).keys() == rows.keys()
    assert fixed.plain.rounds == 0
