"""What ``benchmarks/architectures.py`` found holds every architecture of the tests, and each has a note."""

from __future__ import annotations

import json

import pytest
from architectures import ARCHITECTURES, MIXTURES
from scripts import ROOT, load_script


def test_every_architecture_was_checked() -> None:
    lines = json.loads((ROOT / "benchmarks" / "results" / "architectures.json").read_text(encoding="utf-8"))["lines"]
    assert [line["architecture"] for line in lines] == list(ARCHITECTURES)
    assert all(line["equal_texts"] for line in lines)
    outcomes = {(line["architecture"], name): said for line in lines for name, said in line["engines"].items()}
    refused = {asked for asked, said in outcomes.items() if said.startswith("refused")}
    assert refused == {(architecture, "fp8") for architecture in MIXTURES}


def test_every_architecture_has_its_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    notes = load_script("benchmarks/quoting/architectures.py").NOTES
    assert tuple(notes) == ARCHITECTURES
