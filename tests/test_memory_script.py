"""``benchmarks/memory.py``: its decoder without models is all that a run needs."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from jobs_stub import write_bundle
from scripts import ROOT, load_script

from spectr_jobs.cli import main as cli
from spectr_jobs.work import models


def test_a_run_goes_through_without_models(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    memory, rows = load_script("benchmarks/memory.py"), SimpleNamespace(value=0)
    monkeypatch.setattr(models, "open_decoder", lambda bundle, setup, *, seed, date: memory.NoModel(rows))
    bundle, source = write_bundle(tmp_path / "bundle"), tmp_path / "input.jsonl"
    memory.write_input(source, 3)
    assert cli.call(["run", str(bundle), str(source), "-o", str(tmp_path / "run"), "--batch-size", "8"]) == 0
    assert rows.value == len((tmp_path / "run" / "output.jsonl").read_text(encoding="utf-8").splitlines()) == 3
