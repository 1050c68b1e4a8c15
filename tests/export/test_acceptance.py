"""A build tells how often the target takes what the draft proposes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import VOCABULARY, tiny_model

from spectr_export.checks.acceptance import measure_acceptance
from spectr_export.text import WINDOW
from spectr_runtime import Bundle


def text(count: int) -> list[int]:
    return torch.randint(VOCABULARY, (count,), generator=torch.Generator().manual_seed(0)).tolist()


@torch.inference_mode()
def laws(model: Any, ids: Sequence[int]) -> torch.Tensor:
    return torch.softmax(model(input_ids=torch.tensor([ids])).logits[0].double(), -1)


def test_a_draft_that_is_its_target_is_always_accepted() -> None:
    model = tiny_model("llama")
    assert measure_acceptance(model, model, text(50)) == pytest.approx(1.0, abs=1e-6)


def test_it_is_one_minus_the_distance_of_the_laws_over_all_windows() -> None:
    target, draft, ids = tiny_model("llama"), tiny_model("llama", seed=1), text(WINDOW + 70)
    distances = [
        0.5 * (laws(target, window) - laws(draft, window)).abs().sum(-1) for window in (ids[:WINDOW], ids[WINDOW:])
    ]
    expected = 1 - float(torch.cat(distances).mean())
    assert 0.1 < expected < 0.9
    assert measure_acceptance(target, draft, ids) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("widths", [(VOCABULARY, VOCABULARY + 40), (VOCABULARY + 40, VOCABULARY)])
def test_a_token_that_one_model_does_not_score_is_never_accepted(widths: tuple[int, int]) -> None:
    target, draft = (
        tiny_model("llama", seed=seed, vocab_size=width, eos_token_id=0) for seed, width in enumerate(widths)
    )
    ids = text(40)
    target_TV, draft_TV = laws(target, ids), laws(draft, ids)
    expected = torch.minimum(target_TV[:, :VOCABULARY], draft_TV[:, :VOCABULARY]).sum(-1).mean()
    assert measure_acceptance(target, draft, ids) == pytest.approx(float(expected), abs=1e-6)


def test_the_manifest_holds_it_for_every_draft(bundle_path: Path) -> None:
    quality = Bundle.open(bundle_path).manifest.quality
    assert 0 < quality["draft"]["acceptance"] < 1
    assert "acceptance" not in quality["target"]
