"""Rounds of models that TensorRT runs, recorded and issued ahead: the same rows as without."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from eager_pair import eager_bundle
from replayed import TapeRecorder, recorder
from tensorrt_gpu import put_engines, run_engines

from spectr_runtime import Completion, Decoder, Plan, Request, SamplingParams

__all__ = ["recorder"]


def requests(count: int = 12) -> list[Request]:
    """Prompts of many lengths with mixed sampling."""
    chosen = random.Random(3)
    kinds = ({}, {"temperature": 0.0}, {"top_p": 0.8, "logprobs": 2}, {"frequency_penalty": 0.9, "min_tokens": 4})
    return [
        Request(
            str(row),
            tuple(chosen.randrange(256) for _ in range(1 + 7 * row % 40)),
            SamplingParams(max_tokens=3 + 5 * row % 19, **kinds[row % 4]),  # type: ignore[arg-type]
        )
        for row in range(count)
    ]


def written(decoder: Decoder) -> dict[str, object]:
    """Texts and statistics; the last bits of log-probabilities depend on how many rows a round has."""
    found = {one.id: one for one in decoder.generate(requests()) if isinstance(one, Completion)}
    assert len(found) == len(requests())
    return {name: (one.token_ids, one.finish_reason, one.speculation) for name, one in found.items()}


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("kseq", 2, 3), Plan("race", 1, 4)], ids=str)
def test_models_write_the_same(
    tmp_path: Path, recorder: TapeRecorder, monkeypatch: pytest.MonkeyPatch, plan: Plan
) -> None:
    bundle = eager_bundle(tmp_path / "pair")
    run_engines(put_engines(bundle, (64, 192), rows=4, tree_tokens=9), monkeypatch)

    def open_(replays: bool | None) -> Decoder:
        return Decoder(bundle, plan=plan, backend="tensorrt-rtx", batch_size=4, replays=replays)

    assert written(open_(None)) == written(open_(False))
    assert recorder.replayed > 3
