"""Standard input, FIFOs and what a shell makes of ``<(command)``, which can be read only once."""

from __future__ import annotations

import gzip
import io
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs_stub import read_lines

from spectr_jobs.inputs.tables import ending_of

LINES = b'{"id": "a", "prompt": "x"}\n{"prompt": "y"}\n'
TABLE = b"id,prompt\nc,x\nd,y\n"


@pytest.fixture
def fifo(tmp_path: Path) -> Callable[..., Path]:
    """Makes a FIFO, or fills one again."""

    def make(name: str, content: bytes) -> Path:
        path = tmp_path / name
        if not path.exists():
            os.mkfifo(path)
        threading.Thread(target=path.write_bytes, args=(content,), daemon=True).start()
        return path

    return make


def test_pipes_are_kept_and_go_on_with_the_same_content(batch, bundle: Path, tmp_path: Path, fifo):
    run = tmp_path / "run"
    for content, code in ((TABLE, 0), (TABLE, 0), (b"id,prompt\nz,z\n", 2)):
        inputs = (fifo("one", LINES), fifo("two", gzip.compress(content, mtime=0)))
        result = batch("run", bundle, *inputs, "-o", run)
        assert result.code == code, result.err
    assert "input pipe-2.csv was sha256:" in result.err
    assert [row["id"] for row in read_lines(run / "output.jsonl")] == ["a", "pipe-1.jsonl:2", "c", "d"]
    assert sorted(path.name for path in run.glob("*pipe*")) == ["pipe-1.jsonl", "pipe-2.csv"]
    assert batch("verify", run).code == 0


def test_a_pipe_of_a_shell_is_one(batch, bundle: Path, tmp_path: Path):
    end, start = os.pipe()
    os.write(start, LINES)
    os.close(start)
    result = batch("run", bundle, f"/dev/fd/{end}", "-o", tmp_path / "run")
    os.close(end)
    assert (result.code, (tmp_path / "run" / "pipe-1.jsonl").read_bytes()) == (0, LINES)


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"])
@pytest.mark.parametrize(
    ("content", "kept"),
    [
        (LINES, "stdin.jsonl"),
        (gzip.compress(LINES, mtime=0), "stdin.jsonl"),
        (TABLE, "stdin.csv"),
        (gzip.compress(TABLE, mtime=0), "stdin.csv"),
    ],
)
def test_standard_input_is_known_by_its_content(
    batch, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, kept: str
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert batch("run", bundle, name, "-o", tmp_path / "run").code == 0
    assert len(read_lines(tmp_path / "run" / "output.jsonl")) == 2
    assert (tmp_path / "run" / kept).read_bytes() == content


@pytest.mark.parametrize(
    ("head", "columns", "ending"),
    [
        (b"", {}, ".jsonl"),
        (b'\xef\xbb\xbf\n{"prompt": "a"}\n', {}, ".jsonl"),
        (b'[{"prompt": "a"}]', {}, ".jsonl"),
        (b'loading, wait\n{"prompt": "a, b"}\n', {}, ".jsonl"),
        (b"hello world\nthis, is text\n", {}, ".jsonl"),
        ("id,prompt\n1,a\n".encode("utf-16"), {}, ".jsonl"),
        (b"PAR1\x15\x04", {}, ".parquet"),
        (b"prompt\na\n", {}, ".csv"),
        (b'\xef\xbb\xbf"id";"Prompt"\n1;a\n', {}, ".csv"),
        (b"sep=;\nid;prompt\n", {}, ".csv"),
        (b"id\tprompt\n1\ta\n", {}, ".csv"),
        (b"question\na\n", {}, ".jsonl"),
        (b"question\na\n", {"prompt": "question"}, ".csv"),
        (b"question,answer\na,b\n", {}, ".csv"),
    ],
)
def test_an_ending_is_found_for_a_content(head: bytes, columns: dict[str, str], ending: str):
    assert ending_of(head, columns) == ending


@pytest.mark.parametrize("twice", [("-", "/dev/stdin"), ("-", "-"), ("one", "one")])
def test_a_stream_named_twice_is_refused(batch, bundle: Path, tmp_path: Path, fifo, twice: tuple[str, str]):
    names = [fifo(name, LINES) if name == "one" else name for name in twice]
    result = batch("run", bundle, *names, "-o", tmp_path / "run")
    assert (result.code, result.err) == (2, REFUSED)


def test_a_pipe_of_one_of_several_ranks_is_refused(batch, bundle: Path, tmp_path: Path, fifo):
    result = batch("run", bundle, fifo("one", LINES), "-o", tmp_path / "run", "--rank", 0, "--world", 2)
    assert (result.code, result.err) == (2, REFUSED)


REFUSED = "spectr-batch: error: Standard input or a pipe can be read once, by one process. Write it to a file first.\n"


def test_what_is_closed_is_refused(batch, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", None)
    for name, why in (("-", "standard input is closed"), ("/dev/fd/987", "No such file or directory")):
        result = batch("run", bundle, name, "-o", tmp_path / "run")
        message = f"spectr-batch: error: Input {name}: {why}. Name files, or pipe records in.\n"
        assert (result.code, result.err) == (2, message)


def test_inputs_around_standard_input_are_told_apart(
    batch, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt": "y"}\n')))
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.jsonl").write_bytes(b'{"prompt": "x"}\n')
    names = (tmp_path / "one" / "a.jsonl", "-", tmp_path / "two" / "a.jsonl")
    assert batch("run", bundle, *names, "-o", tmp_path / "run").code == 0
    rows = [row["id"] for row in read_lines(tmp_path / "run" / "output.jsonl")]
    assert rows == ["one/a.jsonl:1", "stdin.jsonl:1", "two/a.jsonl:1"]
