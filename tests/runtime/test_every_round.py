"""A round of every rule, over a chain and over paths, under what a CUDA graph can record, and replayed."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from replayed import TapeRecorder, recorder

from spectr_runtime import Completion, Decoder, Plan, Request, SamplingParams
from spectr_select import RULES

__all__ = ["recorder"]
PLANS = [
    Plan.plain(),
    *(
        Plan(name, drafts, 2)
        for name, rule in RULES.items()
        for drafts in (1, 2)
        if drafts == 1 or rule.trees != "chain"
    ),
    Plan("race", 2, 2, "lookup"),
    Plan("single", 1, 2, "lookup"),
]
KINDS = {
    "sampled": {},
    "greedy": {"temperature": 0.0},
    "adjusted": {"top_p": 0.8, "repetition_penalty": 1.3, "logprobs": 1},
}


# Each plan with sampled tokens, and some with the rest: what other parameters change lies outside of the rule.
CASES = [
    (plan, kind) for plan in PLANS for kind in KINDS if kind == "sampled" or plan.rule in ("plain", "kseq", "race")
]


@pytest.mark.parametrize(("plan", "kind"), CASES, ids=str)
def test_rounds_can_be_recorded_and_write_the_same(
    open_decoder: Callable[..., Decoder], recorder: TapeRecorder, plan: Plan, kind: str
) -> None:
    params = SamplingParams(max_tokens=14, ignore_eos=True, **KINDS[kind])  # type: ignore[arg-type]

    def written(**options: bool) -> dict[str, tuple[int, ...]]:
        requests = [Request(f"{row}", (1, 2, 1, 2, row), params) for row in range(1, 3)]
        decoder = open_decoder(plan, batch_size=2, **options)
        return {one.id: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)}

    rows = written()
    assert recorder.recorded
    assert recorder.replayed > 1
    assert rows == written(replays=False)
    assert len(rows) == 2
