"""At the end of a run, the rows that are left move together, so that a round costs no more than they need."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from spectr_runtime import Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.contract import Call
from spectr_runtime.rows.scheduler import Scheduler

LENGTHS = (3, 9, 5, 14, 1, 12)
REQUESTS = [Request(str(row), (1, 3, 2 + row), SamplingParams(max_tokens=length)) for row, length in enumerate(LENGTHS)]


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("race", 2, 2), Plan("kseq", 2, 2)], ids=str)
def test_a_row_that_moves_writes_what_it_writes_alone(open_decoder: Callable[..., Decoder], plan: Plan) -> None:
    alone = {one.id: one for one in open_decoder(plan, batch_size=1).generate(REQUESTS)}
    together = {one.id: one for one in open_decoder(plan, batch_size=6).generate(REQUESTS)}
    assert together == alone


def test_a_round_feeds_the_rows_that_are_left(
    open_decoder: Callable[..., Decoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = open_decoder(Plan.plain(), batch_size=6)
    fed: list[int] = []
    forward = decoder._loop.pair.target.forward

    def counted(call: Call):
        if call.input_ids_BT.shape[1] == 1:
            fed.append(len(call.input_ids_BT))
        return forward(call)

    monkeypatch.setattr(decoder._loop.pair.target, "forward", counted)
    rows = [row for row in decoder.generate(REQUESTS) if isinstance(row, Completion)]
    lengths = [row.usage.completion_tokens for row in rows]
    assert fed == [sum(length > written for length in lengths) for written in range(max(lengths))]


def test_gaps_are_closed_from_the_end() -> None:
    scheduler, rows = Scheduler(4), [object() for _ in range(4)]
    for row in rows:
        scheduler.admit(row)  # type: ignore[arg-type]
    assert scheduler.close_gap() is None
    for index in (0, 2):
        scheduler.release(index)
    assert scheduler.close_gap() == (rows[3], 3, 0)
    assert scheduler.close_gap() is None
    assert scheduler.batch == [rows[3], rows[1]]
