"""``benchmarks/drafts.py``: every kind of work has prompts, and cells are merged."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
from scripts import ROOT, load_script


@pytest.fixture
def drafts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load_script("benchmarks/drafts.py")


@pytest.mark.parametrize("chat", [True, False])
def test_every_work_has_prompts_of_its_own(drafts: ModuleType, chat: bool) -> None:
    made = {work: drafts.prompts(work, 24, chat=chat) for work in drafts.WORKS}
    assert all(len(set(prompts)) == 24 for prompts in made.values())


def test_a_cell_replaces_the_older_one_of_its_kind(drafts: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "drafts.json"
    for rows, work, plans in ((8, "code", "old"), (1, "prose", "kept"), (8, "code", "new")):
        drafts.keep(output, "pair", {"repeats": 2}, {"work": work, "temperature": 0.0, "rows": rows, "plans": plans})
    cells = json.loads(output.read_text(encoding="utf-8"))["pair"]["cells"]
    assert [(cell["rows"], cell["plans"]) for cell in cells] == [(1, "kept"), (8, "new")]
