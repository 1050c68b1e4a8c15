"""What stands at the head of every result file, and how scripts add to a result file that is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from scripts import load_benchmark

FACTS = {"date": "2026-11-30", "revision": "abcdef0123", "load": 0.5, "repeats": 2}


def test_a_head_says_which_machine_versions_and_state_were_measured() -> None:
    head = load_benchmark("machine").machine()
    assert head["processor"]
    assert head["revision"]
    assert {"spectr", "torch", "onnxruntime"} <= head["versions"].keys()


@pytest.mark.parametrize(
    ("result", "more"),
    [
        (FACTS | {"load": 1.5, "cells": []}, True),
        (FACTS | {"revision": "0123abcdef"}, False),
        (FACTS | {"repeats": 3}, False),
        ({}, False),
    ],
)
def test_more_is_added_to_a_result_of_the_same_state_whatever_the_load(result: dict[str, Any], more: bool) -> None:
    assert load_benchmark("machine").continues(result, FACTS) == more


def test_cells_of_another_state_do_not_stay_under_a_new_head(tmp_path: Path) -> None:
    drafts, output = load_benchmark("drafts"), tmp_path / "drafts.json"

    def keep(facts: dict[str, Any], work: str) -> list[str]:
        drafts.keep(output, "pair", facts, {"work": work, "temperature": 0.0, "rows": 1})
        return [cell["work"] for cell in json.loads(output.read_text(encoding="utf-8"))["pair"]["cells"]]

    assert keep(FACTS, "code") == ["code"]
    assert keep(FACTS | {"load": 1.0}, "rewrite") == ["rewrite", "code"]
    assert keep(FACTS | {"revision": "0123abcdef"}, "prose") == ["prose"]
