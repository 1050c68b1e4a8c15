from __future__ import annotations

import io
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from jobs_stub import write_lines

from spectr_jobs.run_directory import paths

ROWS = 9
RECORDS = [{"id": n, "prompt": f"Say {n}"} for n in range(ROWS)]


@pytest.fixture
def home(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bundle and an input, where commands are given."""
    home = tmp_path / "home"
    home.mkdir()
    bundle.rename(home / "bundle")
    write_lines(home / "in.jsonl", RECORDS)
    monkeypatch.chdir(home)
    return home


def command(inputs: object = "in.jsonl", run_dir: object = "run", *options: object) -> tuple[object, ...]:
    return ("run", "bundle", inputs, "-o", run_dir, "--shard-size", 2, *options)


HALF = ("--rank", 0, "--world", 2)


def test_inputs_named_by_a_relative_path_are_found_from_any_folder(batch, home: Path, tmp_path: Path, monkeypatch):
    batch(*command())
    monkeypatch.chdir(tmp_path)
    assert batch("verify", "home/run").code == 0
    assert batch("replay", "home/run", "--id", "3").code == 0
    (home / "in.jsonl").unlink()
    assert batch("verify", "home/run").err.startswith("spectr-batch: input home/in.jsonl is gone\n")


def test_a_run_that_is_moved_with_its_inputs_and_bundle_finds_them(batch, home: Path, tmp_path: Path, monkeypatch):
    batch(*command())
    monkeypatch.chdir(tmp_path)
    home.rename(tmp_path / "moved")
    assert batch("verify", "moved/run").code == 0
    assert batch("replay", "moved/run", "--id", "3").code == 0


def test_a_run_behind_a_link_finds_its_inputs(batch, home: Path, tmp_path: Path):
    (tmp_path / "elsewhere" / "deep").mkdir(parents=True)
    (home / "run").symlink_to(tmp_path / "elsewhere" / "deep")
    assert batch(*command(), *HALF).code == 0
    assert batch(*command()).code == 0
    assert batch("verify", tmp_path / "elsewhere" / "deep").code == 0


def test_a_run_goes_on_with_the_same_inputs_at_another_place(batch, home: Path, tmp_path: Path, monkeypatch):
    batch(*command(run_dir="whole"))
    batch(*command(), *HALF)
    (home / "copy").mkdir()
    shutil.copy(home / "in.jsonl", home / "copy")
    write_lines(home / "in.jsonl", [{"id": n, "prompt": f"Sing {n}"} for n in range(ROWS)])
    assert batch(*command("copy/in.jsonl")).code == 0
    assert (home / "run" / "output.jsonl").read_bytes() == (home / "whole" / "output.jsonl").read_bytes()


def test_a_run_of_stdin_goes_on_with_the_same_stdin_and_no_other(batch, home: Path, monkeypatch):
    def piped(records: list[dict[str, object]]) -> None:
        text = "".join(json.dumps(record) + "\n" for record in records)
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    monkeypatch.setattr("spectr_jobs.commands.run.conclude", lambda *_, **__: 75)  # as if it were killed before the end
    for records, code in ((RECORDS, 75), (RECORDS, 75), (RECORDS[1:], 2)):
        piped(records)
        result = batch(*command("-"))
        assert result.code == code
    assert "input stdin.jsonl was sha256:" in result.err
    assert [path.name for path in (home / "run").glob("*stdin*")] == ["stdin.jsonl"]
    monkeypatch.undo()
    os.chdir(home)
    result = batch("verify", "run")
    assert (result.code, "of 9 records 9 completed" in result.err) == (75, True)


def test_absolute_paths_and_urls_are_kept_as_they_are(tmp_path: Path):
    for path in ("/data/in.jsonl", "s3://bucket/in.jsonl"):
        assert paths.to_stored(path, tmp_path) == paths.from_stored(path, tmp_path) == path


def test_a_link_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "blob").touch()
    (tmp_path / "in.jsonl.gz").symlink_to("blob")
    monkeypatch.chdir(tmp_path)
    assert paths.to_stored("in.jsonl.gz", tmp_path / "run") == "../in.jsonl.gz"
