"""``benchmarks/peers.py``: what is absent is told, ratios are taken round by round, and cells are merged."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from scripts import ROOT, load_script

KEY = {"pair": "padded", "precision": "fp32"}


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load_script("benchmarks/peers.py")


def test_a_tool_that_cannot_be_opened_says_why(peers: ModuleType, tmp_path: Path) -> None:
    pair = peers.Pair("tiny", tmp_path, None, tmp_path)
    worker = peers.Worker(pair.setup("no such tool", "plain", "fp32", 1), tmp_path / "log")
    assert worker.opened == {"error": "KeyError: 'no such tool'"}
    assert "error" in worker.ask({"law": [1, 2]})
    worker._process.kill()
    assert worker.ask({"law": [1, 2]})["error"].startswith("the process ended with -9")
    worker.close()


def test_another_law_is_refused(peers: ModuleType) -> None:
    assert peers.compare_laws({"law": [-1.0, -2.0]}, [-1.0, -2.0005], "fp32") == {
        "law": {"mean": 0.00025, "largest": 0.0005}
    }
    assert "its law is another" in peers.compare_laws({"law": [-1.0, -2.1]}, [-1.0, -2.0], "fp32")["error"]
    assert "its law is another" in peers.compare_laws({"law": [float("nan")]}, [-1.0], "int4")["error"]
    assert peers.compare_laws({"error": "gone"}, [-1.0], "fp32") == {"error": "gone"}


def test_ratios_are_taken_round_by_round_and_failed_rounds_are_told(peers: ModuleType) -> None:
    found = peers.figures([20.0, "broken", 60.0, 40.0], [10.0, 10.0, 20.0, 10.0])
    assert found == {
        "tokens_per_second": 40.0,
        "ratio": 3.0,
        "quartiles": [2.5, 3.5],
        "failed_rounds": 1,
        "failure": "broken",
    }
    assert peers.figures(["broken", "broken"], [1.0, 1.0]) == {"absent": "broken"}


def test_a_cell_replaces_the_older_one_of_its_kind(peers: ModuleType) -> None:
    cells: list[dict[str, Any]] = []
    for rows, rounds in ((8, 1), (1, 2), (8, 3)):
        cells = peers.merge(cells, {**KEY, "rows": rows, "rounds": rounds})
    assert [(cell["rows"], cell["rounds"]) for cell in cells] == [(1, 2), (8, 3)]


def test_cells_that_fail_for_one_reason_are_told_together(peers: ModuleType) -> None:
    line = {"tool": "llama.cpp", "plan": "plain", "absent": "RuntimeError: none at /build/x.cpp:1"}
    own = {"tool": "spectr", "tokens_per_second": 9.6, "ratio": 1.5, "quartiles": [1.25, 2.0], "failed_rounds": 0}
    others = [{"tool": tool, "plan": plan, "absent": "no"} for tool, plan in peers.TOOLS[7:-1]]
    lines = [own | {"plan": plan} for plan in ("plain", "auto", "race 1 2", "kseq 2 2")] + others + [line]
    cells = [{**KEY, "rows": rows, "rounds": 2, "lines": lines} for rows in (1, 8)]
    shown = peers.tables({"cells": cells})
    assert "| spectr, plain | 1 (10 tokens/s) | 1 (10 tokens/s) |" in shown
    assert "| spectr, auto | 1.50 (1.25 to 2.00) | 1.50 (1.25 to 2.00) |" in shown
    assert "- llama.cpp, plain: absent, RuntimeError: none (fp32, one row; fp32, 8 rows)" in shown
