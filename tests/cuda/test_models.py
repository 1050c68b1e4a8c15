"""A pair of real models on the device writes the same whether its rounds are replayed or not."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from eager_pair import eager_bundle

from spectr_runtime import Bundle, Completion, Decoder, Plan, Request, SamplingParams

PLANS = [Plan.plain(), Plan("single", 1, 3), Plan("kseq", 2, 3), Plan("race", 2, 4)]
KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"temperature": 0.0},
    {"temperature": 0.8, "top_p": 0.8, "logprobs": 2},
    {"frequency_penalty": 0.9, "repetition_penalty": 1.2, "min_tokens": 4, "logprobs": 0},
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return eager_bundle(Path(tmp_path_factory.mktemp("pair")) / "pair")


def completions(decoder: Decoder, count: int) -> dict[str, Completion]:
    chosen = random.Random(3)
    asked = [
        Request(
            str(row),
            tuple(chosen.randrange(256) for _ in range(1 + 7 * row % 60)),
            SamplingParams(max_tokens=3 + 5 * row % 41, **KINDS[row % 4]),
        )
        for row in range(count)
    ]
    found = {one.id: one for one in decoder.generate(asked) if isinstance(one, Completion)}
    assert len(found) == count
    return found


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_models_write_the_same(bundle: Bundle, device: str, plan: Plan, recorded: list[int]) -> None:
    """Rounds that are replayed have other sizes, and so their logits other last bits."""
    options: dict[str, Any] = {"plan": plan, "backend": "torch", "device": device, "batch_size": 5}
    count = 10 if device == "cpu" else 40
    expected = completions(Decoder(bundle, **options, replays=False), count)
    assert not recorded
    for name, one in completions(Decoder(bundle, **options), count).items():
        other = expected[name]
        assert (one.token_ids, one.finish_reason, one.speculation) == (
            other.token_ids,
            other.finish_reason,
            other.speculation,
        )
        for found, wanted in zip(one.logprobs or (), other.logprobs or (), strict=True):
            assert found.logprob == pytest.approx(wanted.logprob, abs=1e-4)
    assert sum(recorded) > 1
