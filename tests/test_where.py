"""``benchmarks/where.py``: the document of what ran where, and whether results are of the code that is here."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from scripts import ROOT, load_benchmark

RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture
def where() -> ModuleType:
    return load_benchmark("where")


@pytest.fixture
def repository(where: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with a package, a script and an empty folder of results."""
    git(tmp_path, "init", "--quiet")
    for place in ("runtime/spectr_runtime/loop.py", "runtime/README.md", "benchmarks/draw.py", "benchmarks/memory.py"):
        write(tmp_path / place, "one")
    commit(tmp_path)
    (tmp_path / "benchmarks" / "results").mkdir()
    monkeypatch.setattr(where, "HERE", tmp_path / "benchmarks")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def commit(folder: Path) -> None:
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=a", "-c", "user.email=a@example.org", "commit", "--quiet", "-m", "one")


def record(repository: Path, revision: str) -> None:
    head = {"processor": "a", "date": "2026-11-30", "revision": revision}
    write(repository / "benchmarks" / "results" / "draw.json", json.dumps({"cells": [head, head]}))


def test_the_document_of_what_ran_where_is_that_of_the_result_files(where: ModuleType) -> None:
    shown = where.DOCUMENT.read_text(encoding="utf-8")
    assert shown == where.document()
    assert all(f"`{path.name}`" in shown for path in RESULTS.glob("*.json"))


def test_a_result_is_of_the_code_that_is_here_until_its_packages_or_its_script_change(
    where: ModuleType, repository: Path
) -> None:
    revision = git(repository, "rev-parse", "--short=10", "HEAD")
    record(repository, revision)
    for beside in ("runtime/README.md", "benchmarks/memory.py"):
        write(repository / beside, "two")
        assert where.differences() == []
    for measured in ("runtime/spectr_runtime/loop.py", "benchmarks/draw.py"):
        write(repository / measured, "two")
        assert where.differences() == [f"draw.json, {revision}: {measured}"]
        write(repository / measured, "one")
    write(repository / "runtime/spectr_runtime/loop.py", "two")
    commit(repository)
    assert where.differences() == [f"draw.json, {revision}: runtime/spectr_runtime/loop.py"]


@pytest.mark.parametrize("revision", ["", "abcdef0123", "abcdef0123+"])
def test_a_result_whose_code_cannot_be_told_is_named(where: ModuleType, repository: Path, revision: str) -> None:
    record(repository, revision)
    assert [line.split(",")[0] for line in where.differences()] == ["draw.json"]
    done = CliRunner().invoke(where.main, ["--check"])
    assert done.exit_code == 1
    assert done.output.startswith("draw.json")
