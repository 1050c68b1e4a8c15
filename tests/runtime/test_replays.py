"""Rounds that are recorded and replayed, and issued ahead: the same rows as without."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from replayed import TapeRecorder, recorder
from support import completions

from spectr_runtime import Decoder, Plan, Request, SamplingParams

__all__ = ["recorder"]
OpenDecoder = Callable[..., Decoder]
# A chain and paths of every family of rules. That all rules can be recorded is tested with the rules.
PLANS = [
    Plan.plain(),
    *(Plan("single", 1, 3), Plan("block", 1, 3)),
    *(Plan("kseq", 3, 3), Plan("rrsw", 2, 2), Plan("greedy", 3, 2), Plan("traversal", 2, 2)),
    *(Plan("race", 1, 3), Plan("race", 3, 3), Plan("gls", 2, 2)),
]
KINDS = (
    {},
    {"temperature": 0.7, "top_p": 0.9, "logprobs": 2},
    {"presence_penalty": 0.8, "repetition_penalty": 1.4, "min_tokens": 2, "logit_bias": ((2, 1.0),)},
    {"temperature": 0.0, "top_k": 3, "stop": ("bc",)},
)


def requests(count: int = 32) -> list[Request]:
    """Rows of each kind by themselves, and then rows of all kinds."""
    chosen = random.Random(0)
    found = []
    for index in range(count):
        kind = KINDS[8 * index // count] if 2 * index < count else chosen.choice(KINDS)
        params = SamplingParams(max_tokens=chosen.randint(2, 12), **kind)  # type: ignore[arg-type]
        found.append(Request(str(index), tuple(chosen.randint(1, 4) for _ in range(chosen.randint(1, 9))), params))
    return found


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_rows_are_the_same_whether_rounds_are_replayed_or_not(
    open_decoder: OpenDecoder, recorder: TapeRecorder, plan: Plan
) -> None:
    replayed = completions(open_decoder(plan, batch_size=4).generate(requests()))
    assert recorder.recorded > 3
    assert recorder.replayed > 3
    assert replayed == completions(open_decoder(plan, batch_size=4, replays=False).generate(requests()))
