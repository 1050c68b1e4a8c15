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
CODE = {
    "benchmarks/draw.py": "import rounds, machine\nfrom papers import pair",
    "benchmarks/rounds.py": "from spectr_runtime import Decoder\nWORKER = 'worker.py'",
    "runtime/spectr_runtime/__init__.py": "if TYPE_CHECKING:\n    from spectr_runtime.decoder import Decoder\n"
    "    from spectr_runtime.scorer import Scorer",
    "runtime/spectr_runtime/decoder.py": "def decode():\n    from spectr_runtime.rows import row\nif TYPE_CHECKING:\n"
    "    import spectr_runtime.scorer",
    "benchmarks/papers/pair.py": "COMMAND = 'spectr-export build'",
}
MEASURED = (
    *("runtime/spectr_runtime/__init__.py", "runtime/spectr_runtime/decoder.py", "runtime/spectr_runtime/rows/row.py"),
    *("export/spectr_export/cli/build.py", "benchmarks/draw.py", "benchmarks/rounds.py", "benchmarks/papers/pair.py"),
    "benchmarks/worker.py",
)
BESIDE = (
    *("runtime/spectr_runtime/scorer.py", "runtime/spectr_runtime/README.md", "jobs/spectr_jobs/run.py"),
    *("benchmarks/memory.py", "benchmarks/machine.py", "benchmarks/papers/other.py"),
)


@pytest.fixture
def where() -> ModuleType:
    return load_benchmark("where")


@pytest.fixture
def repository(where: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with packages, scripts and an empty folder of results."""
    git(tmp_path, "init", "--quiet")
    for place in (*MEASURED, *BESIDE):
        write(tmp_path / place, CODE.get(place, '"one"'))
    commit(tmp_path)
    (tmp_path / "benchmarks" / "results").mkdir()
    monkeypatch.setattr(where, "HERE", tmp_path / "benchmarks")
    monkeypatch.setattr(where, "ROOT", tmp_path)
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


def test_a_result_is_of_the_code_that_is_here_until_what_it_measures_or_is_made_of_changes(
    where: ModuleType, repository: Path
) -> None:
    revision = git(repository, "rev-parse", "--short=10", "HEAD")
    record(repository, revision)
    for place in (*MEASURED, *BESIDE):
        before = (repository / place).read_text(encoding="utf-8")
        write(repository / place, f"{before}  # changed")
        assert where.differences() == ([f"draw.json, {revision}: {place}"] if place in MEASURED else [])
        write(repository / place, before)
    write(repository / MEASURED[0], "two")
    commit(repository)
    assert where.differences() == [f"draw.json, {revision}: {MEASURED[0]}"]


def test_a_script_that_runs_the_tests_measures_all_packages(where: ModuleType, repository: Path) -> None:
    script = repository / "benchmarks" / "draw.py"
    write(script, 'COMMAND = ["-m", "pytest"]')
    packages = [path for place in ("export", "jobs", "runtime") for path in (repository / place).rglob("*.py")]
    assert where.code_of(script) == {script, *packages}


@pytest.mark.parametrize("revision", ["", "abcdef0123", "abcdef0123+"])
def test_a_result_whose_code_cannot_be_told_is_named(where: ModuleType, repository: Path, revision: str) -> None:
    record(repository, revision)
    assert [line.split(",")[0] for line in where.differences()] == ["draw.json"]
    done = CliRunner().invoke(where.main, ["--check"])
    assert done.exit_code == 1
    assert done.output.startswith("draw.json")
