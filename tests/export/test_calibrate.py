"""The costs of a round are measured and kept in the bundle."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from tiny_models import VOCABULARY

from spectr_export.cli import main
from spectr_runtime import Bundle, Completion, Decoder, Request, SamplingParams
from spectr_runtime.planning.planner import RACES, TEXT_RACES, AutoPlanner

MENU = (*RACES, *TEXT_RACES)


def test_kept_costs_serve_the_automatic_plan(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = tmp_path / "bundle"
    shutil.copytree(bundle_path, path)
    before = Bundle.open(path).sha256
    result = CliRunner().invoke(main, ["calibrate", str(path), "--batch-size", "2"])
    assert result.exit_code == 0, result.output
    assert [line.split("  ")[0] for line in result.stdout.splitlines()[2:]] == [str(plan) for plan in MENU]
    (kept,) = (path / "calibration").iterdir()
    assert result.stderr == f"kept in {kept}\n"
    facts = json.loads(kept.read_text())
    assert facts["backend"] == "onnxruntime"
    assert set(facts["costs"]["rounds"]["plain"]) == {"1", "2"}
    assert Bundle.open(path).sha256 == before, "costs are no part of what a run depends on"
    decoder = Decoder(Bundle.open(path), plan="auto", batch_size=2)
    assert isinstance(decoder._loop._chooser.planner, AutoPlanner)
    known = decoder._loop._chooser.planner.costs
    assert all(known.tells(plan, rows) for plan in MENU for rows in (1, 2)), "nothing is tried for its cost again"
    prompt = tuple(range(1, min(9, VOCABULARY)))
    (row,) = decoder.generate([Request("a", prompt, SamplingParams(max_tokens=12, ignore_eos=True))])
    assert isinstance(row, Completion)
    assert len(row.token_ids) == 12


def test_a_device_that_the_backend_does_not_know_is_refused(bundle_path: Path) -> None:
    result = CliRunner().invoke(main, ["calibrate", str(bundle_path), "--device", "tpu"])
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: Backend onnxruntime runs on cpu, cuda or cuda:N; got 'tpu'.\n")
    assert not (bundle_path / "calibration").exists()
