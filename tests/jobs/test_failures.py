"""What happens when the machine fails: a full disk, a locked folder, inputs that vanish or change, clocks that jump."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import StubDecoder, read_lines

from spectr_jobs.cli import main as cli
from spectr_jobs.inputs import survey as survey_module
from spectr_jobs.report.timeline import spans
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work import models as seam

AGAIN = "run the same command again."


@pytest.fixture
def command(bundle: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    monkeypatch.chdir(tmp_path)
    return ("run", bundle, prompts.name, "-o", "run", "--shard-size", 6)


@pytest.fixture
def whole(batch, command: tuple[object, ...], tmp_path: Path) -> bytes:
    """The output of a run that nothing disturbed."""
    batch(*command[:-3], "whole", *command[-2:])
    return (tmp_path / "whole" / "output.jsonl").read_bytes()


def in_a_fork(
    before: Callable[[], None], arguments: tuple[object, ...], tmp_path: Path
) -> tuple[int | None, list[str]]:
    """Exit code and messages of ``spectr-batch`` in a process that first changes something about itself."""

    def child() -> None:
        seam.open_decoder = lambda bundle, setup, *, seed, date: StubDecoder(seed=seed)
        handle = os.open(tmp_path / "stderr", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        sys.stderr = os.fdopen(handle, "w")
        before()
        sys.exit(cli.call([str(argument) for argument in arguments]))

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join()
    return process.exitcode, (tmp_path / "stderr").read_text().splitlines()


forks = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.mark.parametrize(
    "code",
    [errno.ENOSPC, errno.EDQUOT],
    ids=errno.errorcode.get,  # type: ignore[arg-type]
)
@pytest.mark.parametrize("bytes_left", [0, 700, 1500, 4000])
def test_a_full_disk_ends_the_run_and_the_same_command_goes_on(
    batch, command, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, bytes_left: int
):
    write, left = os.write, [bytes_left]

    def full(handle: int, data: Any) -> int:
        if not left[0]:
            raise OSError(code, os.strerror(code))
        written = write(handle, bytes(data)[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(os, "write", full)
    result = batch(*command)
    monkeypatch.undo()
    assert result.code == 1
    said = result.err.splitlines()[-1]
    assert said.startswith(f"spectr-batch: error: [Errno {code}] {os.strerror(code)}: 'run/")
    assert said.endswith(".jsonl'. Make room. Run the same command again to go on.")
    for path in (tmp_path / "run").glob("**/*.jsonl"):
        assert read_lines(path) is not None
    os.chdir(tmp_path)
    assert batch(*command).code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


@forks
def test_a_limit_on_the_size_of_files_is_met_like_a_full_disk(batch, command, whole: bytes, tmp_path: Path):
    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1200, resource.RLIM_INFINITY))

    code, said = in_a_fork(small_files, (*command[:-1], 20), tmp_path)
    assert (code, said[-1]) == (
        1,
        f"spectr-batch: error: [Errno {errno.EFBIG}] File too large: 'run/shards/00000/output.jsonl'",
    )
    done = (tmp_path / "run" / "shards" / "00000" / "output.jsonl").read_bytes()
    assert 0 < len(done) <= 1200
    assert done.endswith(b"\n")
    assert batch(*command[:-1], 20).code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


def without_privileges() -> None:
    """Take from root what lets it write where permissions forbid it; see capabilities(7)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    sets = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, sets) == 0
    sets[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, sets) == 0


@forks
@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_a_folder_that_may_not_be_written_is_named(batch, command, whole: bytes, tmp_path: Path):
    batch(*command, "--rank", 1, "--world", 2, own_shards=True)
    shards, locked = tmp_path / "run" / "shards", tmp_path / "locked"
    locked.mkdir()
    try:
        shards.chmod(0o500)
        locked.chmod(0o500)
        went_on = in_a_fork(without_privileges, command, tmp_path)
        began = in_a_fork(without_privileges, ("run", *command[1:3], "-o", "locked/run"), tmp_path)
    finally:
        shards.chmod(0o700)
        locked.chmod(0o700)
    assert (went_on[0], went_on[1][-1]) == (
        1,
        "spectr-batch: error: [Errno 13] Permission denied: 'run/shards/00000'",
    )
    assert (began[0], began[1]) == (1, ["spectr-batch: error: [Errno 13] Permission denied: 'locked/run'"])
    assert batch(*command).code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


def test_an_input_that_vanishes_is_missed_and_may_come_back(
    batch, command, after_rows, whole: bytes, prompts: Path, tmp_path: Path
):
    away = prompts.with_name("away")
    after_rows(2, lambda: prompts.rename(away))
    result = batch(*command, "--rank", 0, "--world", 2, "--batch-size", 2)
    assert (result.code, result.err.splitlines()[-1]) == (
        65,
        "spectr-batch: error: Input prompts.jsonl has changed, so shard 1 cannot be decoded: Input prompts.jsonl is "
        f"gone. 2 more shards could not be decoded. Put it back as it was, then {AGAIN}",
    )
    later = batch(*command)
    assert (later.code, later.err) == (
        2,
        "spectr-batch: error: Input prompts.jsonl: there is no such file. "
        "Name files of JSON Lines, CSV or Parquet, or folders of them.\n",
    )
    away.rename(prompts)
    assert batch(*command).code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"id":"late","prompt":"x"}\n')


def test_an_input_that_grows_while_it_is_surveyed_is_refused(
    batch, command, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    real = survey_module.shape_of
    monkeypatch.setattr(survey_module, "shape_of", lambda source: (real(source), append(prompts))[0])
    result = batch(*command)
    assert (result.code, result.decoder, result.err) == (
        1,
        None,
        "spectr-batch: error: Input prompts.jsonl changed while it was read. "
        f"Wait until it is complete, then {AGAIN}\n",
    )
    assert not (tmp_path / "run" / "manifest.json").exists()
    monkeypatch.setattr(survey_module, "shape_of", real)
    assert batch(*command).code == 0
    assert read_lines(tmp_path / "run" / "output.jsonl")[-1]["id"] == "late"


def test_what_is_added_to_an_input_later_is_not_decoded_and_told(
    batch, command, after_rows, whole: bytes, prompts: Path, tmp_path: Path
):
    after_rows(2, lambda: append(prompts))
    assert batch(*command).code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole
    found = batch("verify", "run")
    assert found.code == 1
    assert found.err.splitlines()[0] == "spectr-batch: input prompts.jsonl is not the file that was decoded"
    again = batch(*command)
    assert again.code == 2
    assert "was started with other values: input prompts.jsonl was sha256:" in again.err


def test_nothing_depends_on_a_clock_that_jumps(
    batch, command, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    chance = random.Random(0)
    monkeypatch.setattr(time, "time", lambda: chance.uniform(0, 2e9))
    monkeypatch.setattr(time, "time_ns", lambda: int(time.time() * 1e9))
    assert batch(*command, "--rank", 1, "--world", 2, own_shards=True, pause=0.002).code == 0
    assert batch(*command, pause=0.002).code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole
    assert batch("verify", "run").code == 0
    assert batch("report", "run").code == 0
    run = RunDirectory.open(Path("run"))
    pieces = spans(run.sessions)
    assert all(0 < piece.end - piece.start < 60 for piece in pieces)
    assert sum(piece.tokens for piece in pieces) == sum(
        row["usage"]["completion_tokens"] for row in read_lines(run.path / "output.jsonl")
    )


def test_torn_ends_of_every_journal_are_mended(batch, command, whole: bytes, tmp_path: Path):
    batch(*command, "--rank", 1, "--world", 2, own_shards=True)
    torn = tmp_path / "run" / "shards" / "00000"
    torn.mkdir()
    lines = whole.splitlines(keepends=True)[:6]
    (torn / "output.jsonl").write_bytes(b"".join(lines[:3]) + lines[3][:40])
    (torn / "errors.jsonl").write_bytes(b'{"id":"row-5","err')
    (session,) = (tmp_path / "run" / "sessions").iterdir()
    with session.open("ab") as file:
        file.write(b'{"time":1,"eve')
    result = batch(*command)
    assert (result.code, result.decoder.finished) == (0, 9)
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole
    assert [row["event"] for row in journal.rows(tmp_path / "run" / "events.jsonl")].count("start") == 2
