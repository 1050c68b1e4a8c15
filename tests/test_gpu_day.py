"""``benchmarks/gpu.py``, on the CPU with the smallest target: what it measures on a GPU runs, part by part."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from scripts import ROOT, load_script

RESULTS = ROOT / "benchmarks" / "results"
MARK = "cuda"
FEW = (*("--size", "toy", "--device", "cpu", "--rows", "1,2", "--tokens", "24"), "--repeats", "1", "--texts", "2")
Gpu = Callable[..., dict[str, Any]]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return load_script("benchmarks/gpu.py")


@pytest.fixture
def gpu(script: ModuleType, tmp_path: Path) -> Gpu:
    """Runs the script and returns its result file."""

    def run(*options: str) -> dict[str, Any]:
        done = CliRunner().invoke(script.main, [*FEW, *options, "--out", str(tmp_path)])
        assert done.exit_code == 0, done.output
        result: dict[str, Any] = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
        return result

    return run


def parts(*names: str) -> list[str]:
    return [option for name in names for option in ("--part", name)]


def test_every_part_runs_on_a_cpu_and_a_part_that_fails_leaves_the_others_be(gpu: Gpu, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    options = ["--cells", "plain,race:1:4,kseq:2:4,auto,kseq:0:4", "--wheels", str(tmp_path / "empty")]
    result = gpu(*parts("e", "b", "c", "d"), *options)
    statuses = {name: part["status"] for name, part in result["parts"].items()}
    assert statuses.pop("e").endswith(f"There are no wheels in {tmp_path / 'empty'}.")
    assert statuses == dict.fromkeys("bcd", "done")
    check_decoding(result["parts"]["b"]["cells"])
    for ways in result["parts"]["c"]["cells"].values():
        assert [ways[way]["of"] for way in ("plain", "race", "not replayed", "one row")] == [2] * 4
        assert ways["race"]["differ"] == ways["plain"]["differ"] == 0
    selected = result["parts"]["d"]["cells"]
    assert all(0 < cell["eager"]["share"] < 1 for cell in selected.values())
    assert {cell["rule"] for cell in selected.values()} >= {"single", "kseq", "race"}


def check_decoding(cells: dict[str, Any]) -> None:
    assert len(cells) == 2 * 5
    for rows in (1, 2):
        assert "kseq" not in cells[f"toy, {rows} rows, plain"]["plans"]
        assert cells[f"toy, {rows} rows, plain"]["tokens_per_pass"] == 1
        assert cells[f"toy, {rows} rows, kseq:2:4"]["tokens_per_pass"] > 1.5
        assert cells[f"toy, {rows} rows, race:1:4"]["texts_of_plain"] == rows
        assert cells[f"toy, {rows} rows, auto"]["texts_of_plain"] == rows
        assert cells[f"toy, {rows} rows, kseq:0:4"]["error"].startswith("UsageError: K=0")


def test_a_part_is_ended_at_its_limit_and_one_that_is_run_again_replaces_itself_alone(gpu: Gpu) -> None:
    result = gpu(*parts("b", "d"), "--limit", "0.2")  # no process of Python imports torch in that time
    assert [part["status"] for part in result["parts"].values()] == ["stopped after 0.2 seconds"] * 2
    again = gpu(*parts("a"))["parts"]
    assert again["b"] == result["parts"]["b"]
    assert (again["a"]["status"], again["a"]["failures"]) == ("done", [])
    assert "tests/cuda" in again["a"]["files"]
    assert ("passed" if torch.cuda.is_available() else "skipped") in again["a"]["closing"]


def test_without_a_gpu_a_test_that_needs_one_is_skipped_and_said_to_be(tmp_path: Path) -> None:
    test = tmp_path / "test_needs.py"
    test.write_text(f"import pytest\n\n\n@pytest.mark.{MARK}\ndef test_it() -> None:\n    raise AssertionError\n")
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-c", str(ROOT / "pyproject.toml"), str(test)]
    variables = os.environ | {"PYTHONPATH": str(ROOT / "tests"), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider"], cwd=tmp_path, env=variables, capture_output=True, text=True
    )
    assert "1 skipped" in done.stdout
    assert "there is no GPU" in done.stdout


@pytest.mark.parametrize("path", sorted(RESULTS.glob("gpu*.json")), ids=lambda path: path.stem)
def test_a_page_is_that_of_its_result_file(script: ModuleType, path: Path) -> None:
    from gpu_day.page import page

    shown = "\n".join(page(json.loads(path.read_text(encoding="utf-8")), path.stem)) + "\n"
    assert shown == path.with_suffix(".md").read_text(encoding="utf-8")


def test_kernels_that_run_at_the_same_time_count_once(script: ModuleType) -> None:
    from gpu_day.device import covered

    assert covered([(5, 9), (0, 4), (6, 7), (8, 12), (20, 21)]) == 4 + 7 + 1
    assert covered([]) == 0


def test_goals_are_told_from_a_result_file(script: ModuleType) -> None:
    from gpu_day.goals import goals

    def cell(rows: int, plan: str, speed: float, **more: Any) -> dict[str, Any]:
        speeds = {"tokens_per_second": {"median": speed}, "to_plain": {"median": speed / 100}, "round_seconds": 0.01}
        return {"size": "7b", "rows": rows, "plan": plan, **speeds, **more}

    cells = [
        cell(1, "plain", 100, bandwidth_share=0.81, idle=0.2), cell(1, "single:1:4", 200), cell(1, "kseq:2:4", 210),
        cell(1, "kseq:8:8", 280), cell(128, "auto", 98),
    ]  # fmt: skip
    named = {f"7b, {one['rows']} rows, {one['plan']}": one for one in cells}
    selected = {"V=32768, 1 rows, kseq": {"captured": {"seconds": 0.0002}}}
    found = {goal.what: goal for goal in goals({"parts": {"b": {"cells": named}, "d": {"cells": selected}}})}
    reached = {what.removeprefix("7b: "): goal.reached for what, goal in found.items()}
    assert reached == {
        "K-SEQ over plain, one row": True,
        "K-SEQ over single, one row": True,
        "auto over plain, 1 rows": None,
        "auto over plain, 128 rows": True,
        "share of the bandwidth, plain, one row": True,
        "share of a round without kernels, plain, one row": False,
        "share of a round without kernels, kseq:4:4, one row": None,
        "K-SEQ's selection (V=32768, 1 rows, kseq, captured) in a plain round of 7b": True,
    }
