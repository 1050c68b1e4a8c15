"""Which files a name on the command line stands for, and what folders and patterns leave out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from jobs_stub import read_lines, write_lines

from spectr_jobs.inputs import expansion
from spectr_jobs.inputs.expansion import expand
from spectr_jobs.run_directory import layout
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_runtime import UsageError

MANIFEST = '{"format_version": 1, "terms": {}, "shards": []}'


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(MANIFEST if name.endswith("manifest.json") else "")


def inside(folder: Path, *names: str) -> list[str]:
    return [os.path.relpath(path, folder) for name in names for path in expand(name)]


def test_a_folder_stands_for_all_files_that_can_be_read_in_order(tmp_path: Path):
    taken = ["A.JSONL", "b.ndjson.gz", "c.csv", "d.tsv.xz", "e.parquet", "sub/f.jsonl.zst", "sub/g.CSV.bz2"]
    make(tmp_path, *taken)
    assert inside(tmp_path, str(tmp_path)) == taken


def test_a_folder_says_in_one_line_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make(tmp_path, "a.jsonl", ".ipynb_checkpoints/a-checkpoint.jsonl", "._a.jsonl", "notes.txt", "sub/b.json", "README")
    make(tmp_path, "old/manifest.json", "old/output.jsonl", "old/shards/00000/output.jsonl")
    assert inside(tmp_path, str(tmp_path)) == ["a.jsonl"]
    assert capsys.readouterr().err == (
        f"spectr-batch: {tmp_path}: left out: 2 hidden files, 3 files of the run directory old, "
        "3 files with other endings (.json, .txt, README)\n"
    )
    assert inside(tmp_path, str(tmp_path / "sub" / "b.json")) == ["sub/b.json"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("folder", [".hidden", "with manifest.json"])
def test_only_what_lies_below_the_named_folder_is_looked_at(tmp_path: Path, folder: str):
    make(tmp_path / folder, "a.jsonl")
    (tmp_path / folder / "manifest.json").write_text('{"files": []}')
    (tmp_path / folder / "lock").write_text("pip")
    assert inside(tmp_path, str(tmp_path / folder)) == [f"{folder}/a.jsonl"]


def test_a_run_directory_is_left_out_from_its_first_moment_on(tmp_path: Path):
    make(tmp_path, "a.jsonl", "run/stdin.jsonl")
    (tmp_path / "run" / "stdin.jsonl").unlink()
    RunDirectory.reserve(tmp_path / "run")
    make(tmp_path, "run/stdin.jsonl")
    assert inside(tmp_path, str(tmp_path)) == ["a.jsonl"]
    assert (expansion.LOCK, expansion.MANIFEST, expansion.OUTPUT) == (layout.LOCK, layout.MANIFEST, layout.OUTPUT)


def test_a_run_directory_itself_is_no_input_but_its_files_are(tmp_path: Path):
    make(tmp_path, "run/manifest.json", "run/output.jsonl")
    with pytest.raises(UsageError) as caught:
        expand(f"{tmp_path}/run/")
    assert str(caught.value) == (
        f"Input {tmp_path}/run/: it is a run directory. "
        f"To decode its rows, name their file: {tmp_path}/run/output.jsonl."
    )
    named = f"{tmp_path}/run/output.jsonl"
    assert expand(named) == expand(f"{tmp_path}/*/output.jsonl") == expand(f"{tmp_path}/run/out*") == [named]


def test_a_pattern_leaves_out_run_directories_and_hidden_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    make(tmp_path, "b.jsonl", "a.jsonl", "sub/c.jsonl", ".d.jsonl", "run/manifest.json", "run/output.jsonl")
    assert inside(tmp_path, f"{tmp_path}/?.jsonl") == ["a.jsonl", "b.jsonl"]
    assert capsys.readouterr().err == ""
    assert inside(tmp_path, f"{tmp_path}/**/*.jsonl") == ["a.jsonl", "b.jsonl", "sub/c.jsonl"]
    assert (
        capsys.readouterr().err == f"spectr-batch: {tmp_path}/**/*.jsonl: left out: 1 file of the run directory run\n"
    )
    assert inside(tmp_path, f"{tmp_path}/.*.jsonl") == [".d.jsonl"]
    with pytest.raises(UsageError, match="no file matches the pattern"):
        expand(f"{tmp_path}/r*/o*.jsonl")


def test_a_store_is_sorted_out_like_a_folder(capsys: pytest.CaptureFixture[str]):
    fsspec = pytest.importorskip("fsspec")
    for name in ("a.jsonl", "b.csv", ".c/d.jsonl", "run/manifest.json", "run/output.jsonl", "notes.txt"):
        with fsspec.open(f"memory://sorted/{name}", "w") as file:
            file.write(MANIFEST if name.endswith("manifest.json") else "")
    assert expand("memory://sorted") == ["memory://sorted/a.jsonl", "memory://sorted/b.csv"]
    left_out = "left out: 1 hidden file, 2 files of the run directory run, 1 file with other endings (.txt)"
    assert capsys.readouterr().err == f"spectr-batch: memory://sorted: {left_out}\n"
    assert expand("memory://sorted/**/*.jsonl") == ["memory://sorted/a.jsonl"]
    with pytest.raises(UsageError, match="it is a run directory"):
        expand("memory://sorted/run")
    assert expand("memory://sorted/run/output.jsonl") == ["memory://sorted/run/output.jsonl"]


def test_the_same_command_goes_on_with_a_run_inside_of_its_input_folder(batch, bundle: Path, tmp_path: Path):
    data = tmp_path / "data"
    data.mkdir()
    write_lines(data / "a.jsonl", [{"id": n, "prompt": f"Say {n}"} for n in range(5)])
    command = ["run", bundle, data, "-o", data / "run"]
    assert batch(*command).code == 0
    again = batch(*command)
    assert again.code == 0
    assert f"{data}: left out: " in again.err
    assert len(read_lines(data / "run" / "output.jsonl")) == 5
    assert batch("run", bundle, data, "-o", tmp_path / "other").code == 0
    assert len(read_lines(tmp_path / "other" / "output.jsonl")) == 5


@pytest.mark.parametrize(
    ("url", "path", "file", "found"),
    [
        ("s3://b/in", "b/in", "b/in/a.jsonl", "s3://b/in/a.jsonl"),
        ("simplecache::s3://b/in/", "b/in", "b/in/a.jsonl", "simplecache::s3://b/in/a.jsonl"),
        ("ftp://anna:pw@h/in", "/in", "/in/a.jsonl", "ftp://anna:pw@h/in/a.jsonl"),
        ("ftp://anna:pw@h/*.csv", "/*.csv", "/a.csv", "ftp://anna:pw@h/a.csv"),
        ("ftp://h/", "/", "/a.jsonl", "ftp://h/a.jsonl"),
        ("https://h/in/", "https://h/in/", "https://h/in/a.jsonl", "https://h/in/a.jsonl"),
        ("abfs://c@account.net/in", "c/in", "c/in/a.jsonl", "abfs://c@account.net/in/a.jsonl"),
        ("abfs://c@account.net/*.csv", "c/*.csv", "c/a.csv", "abfs://c/a.csv"),
    ],
)
def test_a_file_of_a_store_has_the_host_and_the_user_of_the_url_that_led_to_it(
    url: str, path: str, file: str, found: str
):
    class Store:
        def unstrip_protocol(self, name: str) -> str:
            return f"abfs://{name}"

    assert expansion._url_of(file, Store(), path, url) == found
