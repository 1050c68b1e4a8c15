"""Streams that are closed, full or gone: a run goes on, and its exit code is that of the run."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs_stub import StubDecoder, read_lines, write_lines

from spectr_jobs.cli import main as cli
from spectr_jobs.work import models as seam

# Python warns of forks of processes with threads; the ones of torch are idle, and the children load no model.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
RUN = ("run", "bundle", "in.jsonl", "-o", "run")
COMMAND = [sys.executable, "-c", "from spectr_jobs.cli.main import main; main()"]
Process = multiprocessing.process.BaseProcess


@pytest.fixture(autouse=True)
def _inputs(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_lines(Path("in.jsonl"), [{"id": n, "prompt": "x"} for n in range(20)])


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue  # closed by the test


def opened(number: int) -> object:
    """The stream of a descriptor as a new interpreter makes it."""
    try:
        return open(number, "rw"[number > 0], buffering=1, closefd=False)
    except OSError:
        return None


def start(*arguments: str, streams: Callable[[], object], pause: float = 0) -> Process:
    """``spectr-batch`` with the stub decoder, in a fork that first changes its standard streams."""

    def child() -> None:
        streams()
        sys.stdin, sys.stdout, sys.stderr = map(opened, range(3))  # type: ignore[assignment]
        seam.open_decoder = lambda bundle, setup, *, seed, date: StubDecoder(seed=seed, pause=pause)
        sys.argv = ["spectr-batch", *arguments]
        cli.main()

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    return process


def code_of(process: Process) -> int | None:
    process.join()
    return process.exitcode


def rows() -> int:
    return len(read_lines(Path("run/output.jsonl")))


def close(*numbers: int) -> None:
    for number in numbers:
        os.close(number)


def to_a_file() -> None:
    """Keep stderr in the file ``said``."""
    os.dup2(os.open("said", os.O_CREAT | os.O_TRUNC | os.O_RDWR), 2)


def test_streams_that_are_closed_from_the_start():
    assert code_of(start(*RUN, streams=lambda: close(1, 2))) == 0
    assert rows() == 20


def test_a_log_on_a_full_disk():
    assert code_of(start(*RUN, streams=lambda: os.dup2(os.open("/dev/full", os.O_WRONLY), 2))) == 0
    assert rows() == 20


def test_no_file_takes_the_descriptor_of_a_closed_stream():
    process = start(*RUN, streams=lambda: close(0, 1, 2), pause=0.2)
    while not [*Path("run").glob("shards/*/output.jsonl")]:
        assert process.is_alive()
    assert [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)] == ["/dev/null"] * 3
    process.terminate()
    assert code_of(process) == 75


def test_a_reader_of_stderr_that_leaves_early(pipe: tuple[int, int]):
    reader, writer = pipe
    process = start(*RUN, streams=lambda: (os.dup2(writer, 2), close(reader, writer)), pause=0.02)
    close(writer)
    assert os.read(reader, 1000).startswith(b"spectr-batch: in.jsonl: 20 simple records\n")
    close(reader)
    assert (code_of(process), rows()) == (0, 20)


def test_a_terminal_that_goes_away():
    terminal, end = os.openpty()
    process = start(*RUN, streams=lambda: (os.dup2(end, 1), os.dup2(end, 2), close(terminal, end)), pause=0.05)
    close(end)
    assert os.read(terminal, 1000).startswith(b"spectr-batch: in.jsonl: 20 simple records\r\n")
    close(terminal)
    assert (code_of(process), rows()) == (0, 20)


def test_a_full_pipe_that_does_not_wait(pipe: tuple[int, int]):
    os.set_blocking(pipe[1], False)
    os.write(pipe[1], bytes(1 << 20))
    assert code_of(start(*RUN, streams=lambda: os.dup2(pipe[1], 2))) == 0
    assert rows() == 20


def test_rows_on_stdout_end_quietly_when_nobody_reads_on(pipe: tuple[int, int]):
    reader, writer = pipe
    process = start(
        *RUN[:-1], "-", streams=lambda: (to_a_file(), os.dup2(writer, 1), close(reader, writer)), pause=0.02
    )
    close(writer)
    assert os.read(reader, 10000).startswith(b'{"id":')
    close(reader)
    assert code_of(process) == 1
    assert Path("said").read_text().splitlines()[-1].startswith("spectr-batch: decoding 20 records: ")


def shell(words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command line of a shell, in which ``spectr-batch`` is ``"$@"``."""
    line = ["bash", "-o", "pipefail", "-c", words, "sh", *COMMAND]
    return subprocess.run(line, capture_output=True, env=os.environ | environment, encoding="utf-8", check=False)


def test_rows_on_a_stdout_that_is_closed_are_refused():
    assert code_of(start(*RUN[:-1], "-", streams=lambda: (to_a_file(), close(1)))) == 2
    assert Path("said").read_text() == (
        "spectr-batch: error: -o - writes rows to stdout, which is closed. Name a run directory.\n"
    )


@pytest.mark.parametrize("redirect", [">&- 2>&-", "<&- >&- 2>&-", "2>/dev/full", "2>&1 | true"])
def test_an_exit_code_does_not_depend_on_who_reads(batch, redirect: str):
    batch(*RUN)
    found = [shell(f'"$@" {words} {redirect}') for words in ("verify run", "verify bundle", "walk")]
    assert [(one.returncode, one.stderr) for one in found] == [(0, ""), (2, ""), (2, "")]


def test_a_replay_that_nobody_reads_still_has_its_verdict(batch, pipe: tuple[int, int]):
    batch(*RUN)
    close(pipe[0])
    for nobody in (lambda: os.dup2(pipe[1], 1), lambda: close(1)):
        process = start("replay", "run", "--id", "3", streams=lambda nobody=nobody: (to_a_file(), nobody()))
        assert (code_of(process), Path("said").read_text()) == (0, "spectr-batch: 3: the same row\n")


def test_paths_that_are_not_utf_8_are_escaped(batch):
    name, inputs, bundle = map(os.fsdecode, (b"run-\xff", b"in-\xe9.jsonl", b"bundle-\x80"))
    Path("in.jsonl").rename(inputs)
    Path("bundle").rename(bundle)
    with Path(inputs).open("a") as file:
        file.write('{"prompt": "no id"}\n{"prompt": 1}\n')
    assert code_of(start("run", bundle, inputs, "-o", name, streams=to_a_file)) == 3
    lines = Path("said").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "spectr-batch: in-\\udce9.jsonl: 22 simple records"
    assert "  output             run-\\udcff/output.jsonl" in lines
    assert read_lines(Path(name, "output.jsonl"))[-1]["id"] == "in-\ufffd.jsonl:21"
    commands = {
        "verify {}": "run-\\udcff is sound: of 22 records 21 completed, 1 failed, 0 to be decoded",
        "report {}": "wrote run-\\udcff/report.html",
    }
    for words, answer in commands.items():
        found = shell('"$@" ' + words.format("$'run-\\xff'"), LC_ALL="C", PYTHONIOENCODING="ascii")
        assert (found.returncode, found.stderr) == (0, f"spectr-batch: {answer}\n")
    assert code_of(start("replay", name, "--id", "in-\ufffd.jsonl:22", streams=to_a_file)) == 0
    assert Path("said").read_text(encoding="utf-8") == "spectr-batch: in-\ufffd.jsonl:22: the same row\n"
    assert "<h1>run-\\udcff</h1>" in Path(name, "report.html").read_text(encoding="utf-8")
