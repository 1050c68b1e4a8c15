"""Texts follow the target's law on the device, whether rounds are replayed or not."""

from __future__ import annotations

import pytest
import torch
from support import TableEngine, chi_square_p_value, target_law
from table_pair import table_decoder

from spectr_runtime import Completion, Plan, Request, SamplingParams

PLANS = [Plan.plain(), Plan("single", 1, 2), Plan("kseq", 3, 2), Plan("race", 2, 2)]
PROMPT = (1, 3, 2)


class Recordable(TableEngine):
    """A table engine whose rounds can be recorded."""

    capturable = True


@pytest.mark.parametrize("replays", [None, False], ids=["replayed", "not replayed"])
@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_first_three_tokens_follow_the_target(
    monkeypatch: pytest.MonkeyPatch, device: str, plan: Plan, replays: bool | None
) -> None:
    rows = 1_000 if device == "cpu" else 3_000
    decoder = table_decoder(
        monkeypatch, plan, batch_size=64, engine=Recordable, device=device, replays=replays, prefix_tokens=0
    )
    params = SamplingParams(max_tokens=3, ignore_eos=True)
    counts = torch.zeros(125)
    for one in decoder.generate(Request(str(row), PROMPT, params) for row in range(rows)):
        assert isinstance(one, Completion)
        first, second, third = one.token_ids
        counts[25 * first + 5 * second + third] += 1
    assert chi_square_p_value(counts, target_law(PROMPT, 3, 1.0)) > 1e-9
    assert chi_square_p_value(counts, target_law(PROMPT, 3, 2.5)) < 1e-9, "the test must be able to tell a wrong law"
