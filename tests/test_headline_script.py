"""The model behind ``benchmarks/headline.py`` on numbers that can be worked out by hand."""

from __future__ import annotations

import json
from types import ModuleType
from typing import Any

import pytest
from scripts import ROOT, load_script

from spectr_runtime import Plan


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load_script("benchmarks/papers/headline_model.py")


def test_a_round_has_a_call_for_every_level_but_the_leaves(model: ModuleType) -> None:
    parts = model.Parts(root=0.5, level=0.25, target=4.0, rest=1.0, reading=8.0)
    assert parts.round(Plan("kseq", 4, 3)) == 0.5 + 2 * 0.25 + 4.0 + 1.0
    assert parts.round(Plan.plain()) == 5.0


def test_rows_that_end_make_rounds_cheaper(model: ModuleType) -> None:
    """Texts end after 1, 1, 2 and 3 passes: rounds of four, two and one row, and the prompts of a batch."""
    parts = {
        rows: model.Parts(root=0.0, level=0.0, target=target, rest=0.0, reading=10.0 * rows)
        for rows, target in ((1, 1.0), (3, 5.0), (4, 6.0))
    }
    assert model.predicted(Plan.plain(), parts, [3, 1, 2, 1]) == 40.0 + 6.0 + 3.0 + 1.0
    assert model.predicted(Plan.plain(), {1: parts[1]}, [3]) == 10.0 + 3.0


def test_the_standard_error_is_that_of_texts(model: ModuleType) -> None:
    """Texts that accept alike in every round have none; for equal rounds it is that of the mean of the texts."""
    assert model.efficiency([4, 8], [6, 12]) == (2.5, 0.0)
    tokens, error = model.efficiency([10, 10], [10, 30])
    assert tokens == 3.0
    assert error == pytest.approx(1.0)  # the texts' means are 1 and 3: a deviation of 2 ** 0.5 by 2 ** 0.5


def test_texts_of_all_lengths_tell_the_first_depths(model: ModuleType) -> None:
    short, long = (10, (6,)), (10, (4, 2))
    assert model.pooled([short, long], 1) == pytest.approx(1 + 10 / 20)
    assert model.pooled([short, long], 2) == pytest.approx(1 + 10 / 20 + 10 / 20 * 2 / 4)
    assert model.pooled([(7, ())], 0) == 1.0


def test_a_prediction_holds_near_the_speed_or_within_what_was_measured(model: ModuleType) -> None:
    assert model.holds([11.4], [10.0])
    assert not model.holds([11.6], [10.0])
    assert model.holds([14.0, 14.0, 14.0], [10.0, 11.0, 15.0])


def test_the_bisection_finds_where_a_falling_function_is_zero(model: ModuleType) -> None:
    assert model.bisected(lambda place: 0.3 - place, 0.0, 1.0, steps=10) == pytest.approx(0.3, abs=2.0**-10)


def test_the_texts_take_their_figures_from_the_result(monkeypatch: pytest.MonkeyPatch, model: ModuleType) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    quoting = load_script("benchmarks/quoting/headline.py")
    result = made_up(model)
    findings = quoting.findings(result)
    assert "4.00 tokens, 1.60 times those of a single draft, at 0.70" in findings
    assert "no faster than the fastest single draft, `single K=1 L=4`, with 2.00 (1.80 to 2.20)" in findings
    assert "it misses `kseq K=2 L=8`" in findings
    assert "| `kseq K=8 L=8` | 4.00 ± 0.10 | 40 | 0.70 (0.63 to 0.77) |" in quoting.cells(result)
    assert "| 1 | 8 | 2.50 (1.50) |" in quoting.gpu(result)
    assert "1.40 times as many blended (0.2 standard errors" in quoting.like_quality(result)


def made_up(model: ModuleType) -> dict[str, Any]:
    """A result whose figures are easily told apart, with what JSON makes of it."""
    head = {"date": "2026-11-30", "processor": "CPU", "vectors": ["avx512f"], "cores": 2}
    speeds = {"plain": 1.0, "single K=1 L=4": 2.0, "kseq K=8 L=8": 0.7}
    efficiencies = {"plain": 1.0, "single K=1 L=8": 2.5, "kseq K=8 L=8": 4.0}
    cells = [
        {
            "plan": str(plan), "drafts": plan.drafts, "length": plan.length, "tokens_per_second": 40.0,
            "block_efficiency": efficiencies.get(str(plan), 2.0), "standard_error": 0.1,
            "to_plain": around(speeds.get(str(plan), 1.5)), "milliseconds": {"target": 1.0 + plan.tree.size},
            "shares": dict.fromkeys(("reading", "drafting", "verification", "selection", "rest"), 0.2),
            "predicted": {
                "tokens_per_second": 41.0, "to_measured": around(1.0), "holds": str(plan) != "kseq K=2 L=8"
            },
        }
        for plan in model.PLANS
    ]  # fmt: skip
    gpu = [
        {"rows": 1, "plan": plan, "block_efficiency": 2.0, "milliseconds": 7.0, "to_plain": speed,
         "to_plain_with_larger_draft": speed - 1}
        for plan, speed in (("plain", 1.0), ("single:1:8", 2.0), ("kseq:8:8", 2.5))
    ]  # fmt: skip
    facts = {
        "prompt_tokens": 64, "tokens_per_prompt": 48, "repeats": 3, "on_gpu": gpu,
        "rows": {"1": {"prompts": 6, "cells": cells, "predictions_that_hold": 15}},
    }  # fmt: skip
    better = {
        "drafts": 8,
        "block_efficiency": 4.06,
        "standard_error": 0.1,
        "to_single": 1.4,
        "to_single_standard_error": 0.1,
    }
    way = {"at": 0.4, "single": 2.9, "standard_error": 0.1, "kseq": [better], "on_gpu": gpu}
    like = head | {"contexts": 4, "turns": 2, "length": 8, "ways": {"blended": way, "flattened": way}}
    told: dict[str, Any] = json.loads(json.dumps({"pairs": {"padded": head | facts}, "like-quality": like}))
    return told


def around(ratio: float) -> dict[str, float]:
    return {"median": ratio, "least": 0.9 * ratio, "most": 1.1 * ratio}
