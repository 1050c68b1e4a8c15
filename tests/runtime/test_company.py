"""Freed rows that wait for company."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spectr_runtime import Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.planning.company import Company
from spectr_runtime.reading.counts import Reading

CALL_TOKENS = 24


def learnt(rows: int, round_seconds: float, token_seconds: float, ending: int) -> Company:
    """What is learnt where one row in so many rounds ends, and reading and rounds take always as long."""
    company = Company(CALL_TOKENS)
    company.observe(round_seconds, 0, Reading())
    for number in range(1, 2000):
        read = Reading(100, 1, 0) if number % ending == 0 else Reading()
        reading = (100 + CALL_TOKENS) * token_seconds if read.calls else 0.0
        company.observe(round_seconds + reading, int(number % ending == 0), read)
    return company


def seconds_per_row(free: int, rows: int, round_seconds: float, call_seconds: float, ending: int) -> float:
    """What a row pays if so many are read at a time: rows end one by one, and the first of them waits for the last."""
    idle = sum(range(free)) * ending * round_seconds / rows
    return (call_seconds + idle) / free


@pytest.mark.parametrize("rows", [4, 8, 64])
@pytest.mark.parametrize("round_seconds", [0.003, 0.06])
@pytest.mark.parametrize("token_seconds", [0.00001, 0.001])
@pytest.mark.parametrize("ending", [1, 3, 20])
def test_rows_wait_as_long_as_it_costs_least(
    rows: int, round_seconds: float, token_seconds: float, ending: int
) -> None:
    """No other number of rows that are read at a time costs less; a call's own cost is what reading showed."""
    company = learnt(rows, round_seconds, token_seconds, ending)
    chosen = next((free for free in range(1, rows) if company.enough(free, rows)), rows)
    costs = {
        free: seconds_per_row(free, rows, round_seconds, CALL_TOKENS * token_seconds, ending)
        for free in range(1, rows + 1)
    }
    assert costs[chosen] <= 1.02 * min(costs.values())


def test_without_figures_nobody_waits() -> None:
    company = Company(CALL_TOKENS)
    for seconds, read in ((1.0, Reading(100, 1, 0)), (0.1, Reading())):
        assert company.enough(1, 8)
        company.observe(seconds, 1, read)
    assert company.enough(1, 8)


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("race", 1, 2)], ids=str)
@pytest.mark.parametrize("prefix_tokens", [0, None])
def test_rows_that_waited_write_what_they_write_alone(
    open_decoder: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch, plan: Plan, prefix_tokens: int | None
) -> None:
    """They are read in fewer calls, every one is decoded, and nobody moves to a place that somebody will get."""
    requests = [
        Request(f"{row}", (1 + row % 4, 3, *(2, 1) * 9)[: 4 + row], SamplingParams(max_tokens=3 + row % 5))
        for row in range(12)
    ]
    alone = {one.id: one.token_ids for one in open_decoder(plan, batch_size=1, prefix_tokens=0).generate(requests)}
    calls, moves = {}, list[tuple[int, bool]]()
    for least in (1, 3):
        decoder = open_decoder(plan, batch_size=4, tokens_per_call=64, prefix_tokens=prefix_tokens)
        monkeypatch.setattr(decoder._loop._company, "enough", lambda free, _rows, least=least: free >= least)
        move = decoder._loop.pair.move
        monkeypatch.setattr(
            decoder._loop.pair,
            "move",
            lambda *place, move=move, own=decoder: (moves.append((place[1], own._loop._waiting.ended)), move(*place)),
        )
        found = {one.id: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)}
        assert found == alone
        calls[least] = decoder.reading.calls
    assert calls[3] < calls[1]
    assert moves
    assert all(ended for _, ended in moves)


def test_a_call_counts_once_for_all_of_its_rows(open_decoder: Callable[..., Decoder]) -> None:
    decoder = open_decoder(Plan.plain(), batch_size=3, tokens_per_call=8, prefix_tokens=0)
    params = SamplingParams(max_tokens=2, ignore_eos=True)
    list(decoder.generate(Request(f"{row}", (1, 2, 3, 4) * 5, params) for row in range(3)))
    assert (decoder.reading.read, decoder.reading.calls) == (3 * 19, 3)
