"""What prompts share is read once, and no row shows it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence

import pytest
import torch
from support import TableEngine, whole

from spectr_runtime import (
    Completion,
    Decoder,
    EngineError,
    Failure,
    Outcome,
    Plan,
    Request,
    SamplingParams,
    UsageError,
)
from spectr_runtime.contract import Call
from spectr_runtime.planning.planner import AutoPlanner
from spectr_runtime.speculation.plan import PlanChoice

OpenDecoder = Callable[..., Decoder]
PARAMS = SamplingParams(max_tokens=7, ignore_eos=True)
SYSTEM = (1, 3, 2, 2, 4) * 8
OTHER = (2, 1, 4) * 14
PROMPTS = {
    "a system prompt": [(*SYSTEM, *(1 + row % 4, 3) * (1 + row % 5)) for row in range(11)],
    "equal prompts": [SYSTEM] * 9,
    "equal but for the last token": [(*SYSTEM, 1 + row % 4) for row in range(9)],
    "two prefixes, interleaved": [(*(SYSTEM, OTHER)[row % 2], 1 + row // 2 % 4) for row in range(12)],
    "a prefix in a prefix": [(*SYSTEM, *OTHER[: 20 * (row % 2)], 1 + row % 4) for row in range(9)],
    "as long as blocks": [SYSTEM[:size] for size in (16, 32, 16, 33, 17, 31, 32)],
    "nothing shared": [(1 + row, *SYSTEM) for row in range(4)],
}
PLANS: list[PlanChoice] = [Plan.plain(), Plan("kseq", 2, 3), "auto"]


def requests(prompts: Sequence[tuple[int, ...]], choices: int = 1) -> list[Request]:
    return [
        Request(str(row), prompt, PARAMS, choice) for row, prompt in enumerate(prompts) for choice in range(choices)
    ]


def decoded(decoder: Decoder, asked: Sequence[Request]) -> dict[tuple[str, int], Outcome]:
    found = {(one.id, one.choice): one for one in decoder.generate(asked)}
    if isinstance(decoder._loop._chooser.planner, AutoPlanner):  # what a row's rounds drafted depends on the clock
        return {key: dataclasses.replace(one, speculation=None) for key, one in found.items()}
    return found


def fed(engine: TableEngine) -> int:
    return sum(call.input_ids_BT.numel() for call in engine.calls)


@pytest.mark.parametrize(
    ("plan", "prefix_tokens"),
    [(PLANS[0], 16), (PLANS[0], None), (PLANS[1], 48), (PLANS[1], 10_000), (PLANS[2], None)],
    ids=str,
)
@pytest.mark.parametrize("name", PROMPTS)
def test_every_row_is_what_it_would_be_alone(
    open_decoder: OpenDecoder, name: str, plan: PlanChoice, prefix_tokens: int | None
) -> None:
    asked, opened = requests(PROMPTS[name]), {"batch_size": 4, "capacity": 96}
    off = open_decoder(plan, prefix_tokens=0, **opened)
    on = open_decoder(plan, prefix_tokens=prefix_tokens, **opened)
    expected = decoded(off, asked)
    assert all(isinstance(one, Completion) for one in expected.values())
    assert decoded(on, asked) == expected
    assert off.reading.copied == 0
    assert on.reading.read + on.reading.copied == off.reading.read
    assert (on.reading.copied > 0) == (name != "nothing shared")


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("race", 2, 2)], ids=str)
def test_the_choices_of_a_prompt_read_it_once(open_decoder: OpenDecoder, plan: Plan) -> None:
    """Of 40 tokens 39 are read before the first round; the three other rows get 32 of them."""
    asked = requests([SYSTEM, OTHER[:40]], choices=4)
    off, on = (open_decoder(plan, batch_size=8, capacity=96, prefix_tokens=tokens) for tokens in (0, None))
    assert decoded(on, asked) == decoded(off, asked)
    assert (off.reading.read, off.reading.copied) == (8 * 39, 0)
    assert (on.reading.read, on.reading.copied) == (8 * 39 - 6 * 32, 6 * 32)
    for engine, other in zip(engines(on), engines(off), strict=True):
        assert fed(other) - fed(engine) == 6 * 32


def engines(decoder: Decoder) -> list[TableEngine]:
    return [one for one in (decoder._loop.pair.target, decoder._loop.pair.draft) if isinstance(one, TableEngine)]


def test_rows_that_come_later_and_later_calls_find_what_was_read(open_decoder: OpenDecoder) -> None:
    decoder = open_decoder(Plan.plain(), batch_size=1, capacity=128)
    asked = requests(PROMPTS["a system prompt"])
    first = decoded(decoder, asked)
    assert decoder.reading.copied == 10 * 32
    before = decoder.reading.copied
    assert decoded(decoder, asked) == first
    assert decoder.reading.copied == before + 11 * 32 + 2 * 16, "two texts have a third block, which was theirs alone"


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_batch_that_is_halved_reads_no_prefix_again(
    open_decoder: OpenDecoder, plan: PlanChoice, caplog: pytest.LogCaptureFixture
) -> None:
    class Small(TableEngine):
        def forward(self, call: Call) -> torch.Tensor:
            if len(call.input_ids_BT) > 3 and len(self.calls) > 12:
                raise EngineError("PyTorch failed in a call: CUDA out of memory.")
            return super().forward(call)

    asked = requests(PROMPTS["two prefixes, interleaved"], choices=3)
    expected = decoded(open_decoder(plan, batch_size=2, capacity=96, prefix_tokens=0), asked)
    quiet = open_decoder(plan, batch_size=8, capacity=96)
    assert decoded(quiet, asked) == expected
    decoder = open_decoder(plan, batch_size=8, capacity=96, engine=Small)
    with caplog.at_level(logging.WARNING):
        assert decoded(decoder, asked) == expected
    assert decoder.batch_size == 2
    assert decoder.reading.copied >= quiet.reading.copied + 8 * 32, "the rows that were evicted got theirs once more"


def test_prompts_that_are_scored_are_read_whole_and_others_may_begin_like_them(open_decoder: OpenDecoder) -> None:
    scored = dataclasses.replace(PARAMS, logprobs=2)
    asked = [Request(str(row), (*SYSTEM, 1 + row % 4), scored, echo=row % 2 == 0) for row in range(8)]
    off, on = (open_decoder(PLANS[1], batch_size=3, capacity=96, prefix_tokens=tokens) for tokens in (0, None))
    assert decoded(on, asked) == decoded(off, asked)
    assert off.reading.read == 8 * 40
    assert (on.reading.read, on.reading.copied) == (8 * 40 - 4 * 32, 4 * 32)


def test_fewer_tokens_than_none_are_refused(open_decoder: OpenDecoder) -> None:
    with pytest.raises(UsageError, match="prefix_tokens is -1; it must be at least 0"):
        open_decoder(Plan.plain(), prefix_tokens=-1)


@pytest.mark.parametrize("broken", [1, 2])
def test_a_row_that_is_not_sound_fails_alone(open_decoder: OpenDecoder, broken: int) -> None:
    """A call that reads leaves NaN in a row, as padding or a fault may, and the prompt is that of all rows."""

    class Faulty(TableEngine):
        def forward(self, call: Call) -> torch.Tensor:
            rows = whole(self.cache)[:, call.first_row : call.first_row + len(call.input_ids_BT)]
            nan_B = rows.isnan().any(-1).any(-1).any(-1).any(0)
            logits = super().forward(call)
            if len(self.calls) == broken:
                for part in self.cache.parts():
                    part[call.first_row, :, 0] = torch.nan
            return torch.where(nan_B[:, None, None], torch.nan, logits)

    asked = requests([SYSTEM], choices=6)
    expected = decoded(open_decoder(Plan.plain(), batch_size=3, capacity=96, prefix_tokens=0), asked)
    decoder = open_decoder(Plan.plain(), batch_size=3, capacity=96, tokens_per_call=64, engine=Faulty)
    found = decoded(decoder, asked)
    failed = [key for key, one in found.items() if isinstance(one, Failure)]
    assert failed == [("0", broken - 1)]
    assert all(found[key] == expected[key] for key in expected if key not in failed)
