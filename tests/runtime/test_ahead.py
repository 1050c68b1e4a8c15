"""Rounds that are issued before the last one was read: what may come between the two changes no row."""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from growing import CrampedEngine, GrowingEngine, long_texts
from replayed import TapeRecorder, recorder
from support import TableEngine

from spectr_runtime import Completion, Decoder, EngineError, Outcome, Plan, Request, SamplingParams
from spectr_runtime.contract import Call

__all__ = ["recorder"]
OpenDecoder = Callable[..., Decoder]
PLANS = [Plan.plain(), Plan("kseq", 2, 2), Plan("race", 1, 3)]
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.6, "top_k": 3, "min_p": 0.1, "seed": 11},
    {"presence_penalty": 1.5, "frequency_penalty": 0.7, "logprobs": 2},
    {"repetition_penalty": 1.8, "min_tokens": 5, "stop": ("ab", "d")},
    {"logit_bias": ((3, 4.0), (0, 1.0)), "stop_token_ids": (4,)},
    {"stop": ("ca", "bb"), "logprobs": 0},
    {"ignore_eos": True},
)


def mixed(count: int, most: int = 14) -> list[Request]:
    """Rows that end soon, each with other parameters than the one before it at its index."""
    chosen = random.Random(7)
    return [
        Request(
            str(row),
            tuple(chosen.randint(1, 4) for _ in range(chosen.choice((1, 2, 3, 5, 9)))),
            SamplingParams(**{"max_tokens": chosen.randint(5, most)} | KINDS[chosen.randrange(len(KINDS))]),
            echo=row % 5 == 0,
        )
        for row in range(count)
    ]


def decoded(decoder: Decoder, requests: Sequence[Request]) -> dict[str, Outcome]:
    outcomes = {one.id: one for one in decoder.generate(requests)}
    assert len(outcomes) == len(requests)
    return outcomes


def sound(decoder: Decoder, requests: Sequence[Request]) -> dict[str, Completion]:
    found = {name: one for name, one in decoded(decoder, requests).items() if isinstance(one, Completion)}
    assert len(found) == len(requests)
    return found


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize("batch_size", [1, 5])
def test_rows_follow_each_other_at_an_index_with_other_parameters(
    open_decoder: OpenDecoder, recorder: TapeRecorder, plan: Plan, batch_size: int
) -> None:
    requests = mixed(15 + 5 * batch_size)
    expected = sound(open_decoder(plan, batch_size=batch_size, replays=False), requests)
    assert {one.finish_reason for one in expected.values()} == {"stop", "length"}
    assert sound(open_decoder(plan, batch_size=batch_size), requests) == expected
    assert recorder.replayed > 3


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_row_at_the_capacity_writes_within_its_slots(
    open_decoder: OpenDecoder, recorder: TapeRecorder, plan: Plan
) -> None:
    """Beyond the last slot a table engine fails; beside these rows, others are decoded until all have ended."""
    requests = [
        Request(str(row), (1 + row % 4, 2) * (1 + 2 * row), SamplingParams(max_tokens=99, ignore_eos=row % 3 > 0))
        for row in range(12)
    ]
    expected = sound(open_decoder(plan, batch_size=4, replays=False), requests)
    assert sum(one.usage.prompt_tokens + one.usage.completion_tokens == 48 for one in expected.values()) > 4
    assert sound(open_decoder(plan, batch_size=4), requests) == expected


LONG = long_texts(9)


@pytest.mark.parametrize("plan", [Plan("kseq", 2, 3)], ids=str)
@pytest.mark.parametrize("engine", [GrowingEngine, CrampedEngine])
def test_caches_that_move_or_lack_memory_change_no_row(
    open_decoder: OpenDecoder, recorder: TapeRecorder, plan: Plan, engine: type[TableEngine]
) -> None:
    """Lengths pass several sizes, and recordings work on memory that is given up."""
    expected = sound(open_decoder(plan, batch_size=2, capacity=400, replays=False), LONG)
    decoder = open_decoder(plan, batch_size=8, capacity=400, engine=engine)
    assert sound(decoder, LONG) == expected
    assert decoder.batch_size == (8 if engine is GrowingEngine else 4)
    assert recorder.replayed > 10
    assert decoder._loop.pair.target.cache.generation > 3


@pytest.mark.parametrize("after", [3, 20])
def test_memory_that_runs_out_in_a_call_loses_no_row(
    open_decoder: OpenDecoder, recorder: TapeRecorder, after: int
) -> None:
    class Small(TableEngine):
        def forward(self, call: Call) -> torch.Tensor:
            if len(call.input_ids_BT) > 3 and len(self.calls) > after:
                raise EngineError("PyTorch failed in a call: CUDA out of memory. Tried to allocate 20.00 MiB.")
            return super().forward(call)

    requests, plan = mixed(30), Plan("kseq", 2, 2)
    expected = sound(open_decoder(plan, batch_size=2, replays=False), requests)
    decoder = open_decoder(plan, batch_size=8, engine=Small)
    assert sound(decoder, requests) == expected
    assert decoder.batch_size == 2


class Broken(TapeRecorder):
    """Records nothing after a while."""

    error: Exception

    def record(self, work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        if self.recorded > 2:
            raise self.error
        return super().record(work)


@pytest.mark.parametrize(
    "error",
    [
        EngineError("PyTorch failed in a call: operation not permitted when stream is capturing"),
        RuntimeError("CUDA error: operation not permitted when stream is capturing"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB."),
    ],
    ids=["engine", "pytorch", "memory"],
)
def test_what_cannot_be_recorded_is_done_without(
    open_decoder: OpenDecoder,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    """Nor is the batch halved where there is memory for rounds, and none for a recording."""
    requests = mixed(30)
    expected = sound(open_decoder(PLANS[1], batch_size=5), requests)
    broken = Broken()
    broken.error = error
    monkeypatch.setattr("spectr_runtime.speculation.turn.open_recorder", lambda *_: broken)
    decoder = open_decoder(PLANS[1], batch_size=5)
    assert sound(decoder, requests) == expected
    assert [record.message for record in caplog.records] == [
        f"Rounds cannot be recorded, and take longer than they need to: {error}"
    ]
    assert decoder.batch_size == 5


def test_phases_share_the_time_that_nothing_else_took(open_decoder: OpenDecoder, recorder: TapeRecorder) -> None:
    requests = [Request(f"{row}", (1, 3, 2), SamplingParams(max_tokens=21, ignore_eos=True)) for row in range(12)]
    decoder = open_decoder(PLANS[1], batch_size=3)
    assert len(sound(decoder, requests)) == 12
    before, recorded, started = dataclasses.asdict(decoder.timing), recorder.recorded, time.perf_counter()
    assert len(sound(decoder, requests)) == 12
    spent, after = time.perf_counter() - started, dataclasses.asdict(decoder.timing)
    assert recorder.recorded <= recorded + 1, "nearly all rounds of the second call are replayed"
    assert 0 < sum(after.values()) - sum(before.values()) <= spent


@pytest.mark.parametrize("plan", PLANS[1:], ids=str)
def test_a_call_that_is_given_up_leaves_nothing_to_the_next(
    open_decoder: OpenDecoder, recorder: TapeRecorder, plan: Plan
) -> None:
    requests = mixed(20)
    expected = sound(open_decoder(plan, batch_size=4, replays=False), requests)
    decoder = open_decoder(plan, batch_size=4)
    for taken in (1, 6):
        given_up = decoder.generate(requests)
        for _ in range(taken):
            next(given_up)
    assert sound(decoder, requests) == expected
    assert sound(decoder, requests) == expected


@pytest.mark.parametrize("plan", PLANS[1:], ids=str)
def test_calls_of_one_shape_are_issued_ahead_too(open_decoder: OpenDecoder, recorder: TapeRecorder, plan: Plan) -> None:
    requests = mixed(24)
    expected = sound(open_decoder(plan, batch_size=4, replays=False), requests)
    assert sound(open_decoder(plan, batch_size=4, call_tokens=8), requests) == expected
    assert recorder.replayed > 3


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_next_call_replays_what_was_recorded(open_decoder: OpenDecoder, recorder: TapeRecorder, plan: Plan) -> None:
    params = SamplingParams(max_tokens=5, ignore_eos=True)
    requests = [Request(str(row), (1, 2, 3), params) for row in range(6)]
    decoder = open_decoder(plan, batch_size=1)
    written = sound(decoder, requests)
    assert sound(decoder, requests) == written
    assert recorder.recorded == 1


def test_a_call_that_is_given_up_for_a_failure_is_over(open_decoder: OpenDecoder, recorder: TapeRecorder) -> None:
    """Its rows have ended by then, and a round is on its way that decodes them once more."""
    bad = Request("bad", (1,), SamplingParams(stop_token_ids=(9,)))
    good = [Request(str(row), (1, 2, 3), SamplingParams(max_tokens=4)) for row in range(3)]
    expected = sound(open_decoder(PLANS[0], batch_size=1, replays=False), good)
    decoder = open_decoder(PLANS[0], batch_size=1)
    given_up = decoder.generate([good[0], bad, good[1]])
    assert [next(given_up).id, next(given_up).id] == ["0", "bad"]
    assert sound(decoder, good) == expected


@pytest.mark.parametrize("plan", PLANS[1:], ids=str)
def test_the_hosts_thread_changes_no_row(open_decoder: OpenDecoder, recorder: TapeRecorder, plan: Plan) -> None:
    requests, taken = mixed(20), list[Outcome]()
    open_decoder(plan, batch_size=4).run(iter(requests), taken.append)
    assert {one.id: one for one in taken} == sound(open_decoder(plan, batch_size=4, replays=False), requests)


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_rows_that_close_ranks_go_on_where_they_were(
    open_decoder: OpenDecoder, recorder: TapeRecorder, plan: Plan
) -> None:
    """The last rows of a run outlive those before them; all have penalties, which the device counts by index."""
    requests = [
        Request(str(row), (1, 3, 2), SamplingParams(max_tokens=2 + 5 * row, frequency_penalty=1.1, min_tokens=2))
        for row in range(7)
    ]
    expected = sound(open_decoder(plan, batch_size=1, replays=False), requests)
    assert sound(open_decoder(plan, batch_size=7), requests) == expected


@pytest.mark.parametrize("plan", [Plan("single", 1, 3, "lookup"), Plan("block", 1, 3, "lookup")], ids=str)
def test_a_rule_that_tests_what_was_looked_up_sees_whole_texts(
    open_decoder: OpenDecoder, recorder: TapeRecorder, plan: Plan
) -> None:
    """Where nothing is found in a text that is short of a round's tokens, something may be found in the whole one."""
    requests = [
        Request(str(row), (1 + row % 4,) * (1 + row % 3), SamplingParams(max_tokens=40, ignore_eos=True))
        for row in range(8)
    ]
    expected = sound(open_decoder(plan, batch_size=1, replays=False), requests)
    assert sum(one.speculation.accepted for one in expected.values()) > 5
    assert sound(open_decoder(plan, batch_size=3), requests) == expected
