"""Logits that are not finite, in rounds that are issued ahead: they fail their row, and reach no other one."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from fragile import BehindFragile, EndFragile, PlaceFragile
from replayed import TapeRecorder, recorder
from support import TableEngine

from spectr_runtime import Completion, Decoder, Failure, Plan, Request, SamplingParams
from spectr_select import RULES

__all__ = ["recorder"]
OpenDecoder = Callable[..., Decoder]


def outcomes(decoder: Decoder, requests: list[Request]) -> dict[str, object]:
    found = {}
    for one in decoder.generate(requests):
        found[one.id] = str(one.error) if isinstance(one, Failure) else one
    assert len(found) == len(requests)
    return found


def requests(count: int, **params: object) -> list[Request]:
    """Prompts of one token, of which nothing is read, and longer ones, some of which are scored.

    No call that reads several rows is one token wide.
    """
    chosen = random.Random(2)
    made = []
    for row in range(count):
        prompt = tuple(chosen.randint(1, 3) for _ in range(chosen.choice((1, 1, 2, 7, 17))))
        scored = {"logprobs": 1} if row % 4 == 0 else {}
        made.append(
            Request(str(row), prompt, SamplingParams(**{"max_tokens": 12} | scored | params), echo=row % 4 == 0)
        )  # type: ignore[arg-type]
    return made


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_what_is_decoded_for_nobody_reaches_no_row(
    open_decoder: OpenDecoder, recorder: TapeRecorder, batch_size: int
) -> None:
    asked = requests(40)
    expected = outcomes(open_decoder(Plan.plain(), batch_size=1, replays=False), asked)
    assert sum(isinstance(one, Completion) and one.finish_reason == "stop" for one in expected.values()) > 20
    decoder = open_decoder(Plan.plain(), batch_size=batch_size, engine=EndFragile)
    assert outcomes(decoder, asked) == expected
    assert outcomes(decoder, asked) == expected, "nor one of the next call"


@pytest.mark.parametrize("rule", ["plain", "single", "kseq", "race", "gbv", "traversal"])
def test_a_row_that_is_not_finite_fails_alone(open_decoder: OpenDecoder, recorder: TapeRecorder, rule: str) -> None:
    """It is decoded once more, from tokens that mean nothing."""
    plan = Plan.plain() if rule == "plain" else Plan(rule, 1 if RULES[rule].trees == "chain" else 2, 2)
    asked = requests(40)
    expected = outcomes(open_decoder(plan, batch_size=1, engine=PlaceFragile, replays=False), asked)
    failed = sum(isinstance(one, str) for one in expected.values())
    assert 2 < failed < 38
    assert outcomes(open_decoder(plan, batch_size=4, engine=PlaceFragile), asked) == expected


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("race", 2, 2)], ids=str)
def test_a_row_that_is_still_read_is_read_rightly(
    open_decoder: OpenDecoder, recorder: TapeRecorder, plan: Plan
) -> None:
    """While others go on, it takes no part in rounds, which decode it all the same."""
    asked = requests(20, ignore_eos=True, logit_bias=((4, -100.0),))
    asked[4::5] = [
        Request(f"long {row}", (1, 2, 3) * (8 + row) + (4,), asked[1].params) for row in range(len(asked[4::5]))
    ]
    expected = outcomes(open_decoder(plan, batch_size=1, replays=False, engine=TableEngine), asked)
    decoder = open_decoder(plan, batch_size=3, engine=BehindFragile)
    assert outcomes(decoder, asked) == expected
