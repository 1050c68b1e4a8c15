"""What happens when the machine fails: a full disk, a locked folder, inputs that vanish or change, clocks that jump."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import multiprocessing
import os
import random
import resource
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import StubDecoder, StubScorer, read_lines

from spectr_jobs.cli import main as cli
from spectr_jobs.inputs import survey as survey_module
from spectr_jobs.report.timeline import spans
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.lock import Lock, is_free
from spectr_jobs.work import models as seam

AGAIN = "run the same command again."
CONTINUE = "Run the same command again to go on."
GIVE_ACCESS = f"Give this user access to it. {CONTINUE}"


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
def test_a_limit_on_the_size_of_files_is_met_like_a_full_disk(
    batch, command, whole: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("spectr_jobs.work.watcher.MOST", 0)  # whose rounds would be longer than the output

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1200, resource.RLIM_INFINITY))

    code, said = in_a_fork(small_files, (*command[:-1], 20), tmp_path)
    assert (code, said[-1]) == (
        1,
        f"spectr-batch: error: [Errno {errno.EFBIG}] File too large: 'run/shards/00000/output.jsonl'. "
        f"Allow larger files. {CONTINUE}",
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
        f"spectr-batch: error: [Errno 13] Permission denied: 'run/shards/00000'. {GIVE_ACCESS}",
    )
    assert (began[0], began[1]) == (
        1,
        [f"spectr-batch: error: [Errno 13] Permission denied: 'locked/run'. {GIVE_ACCESS}"],
    )
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


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize("packed", [(), ("--compress", "zst")], ids=["plain", "packed"])
@pytest.mark.parametrize("damage", [Path.unlink, cut, lambda path: path.write_bytes(b"")], ids=["gone", "cut", "empty"])
def test_merged_files_that_are_lost_are_written_again(
    batch, command, tmp_path: Path, packed: tuple[str, ...], damage: Callable[[Path], None]
):
    assert batch(*command, *packed).code == 0
    merged = tmp_path / "run" / ("output.jsonl" + (".zst" if packed else ""))
    whole = merged.read_bytes()
    damage(merged)
    again = batch(*command, *packed)
    assert (again.code, again.decoder, merged.read_bytes()) == (0, None, whole)
    assert batch("verify", "run").code == 0


def test_merged_files_that_are_whole_are_left_alone(batch, command, tmp_path: Path):
    batch(*command)
    before = os.stat("run/output.jsonl")
    batch(*command)
    assert os.stat("run/output.jsonl").st_ino == before.st_ino


@forks
@pytest.mark.skipif(sys.platform != "linux", reason="capabilities are Linux's")
def test_looking_back_at_a_run_needs_no_write_access(batch, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    batch(*command)
    monkeypatch.setattr(seam, "open_scorer", lambda bundle, how, *, date: StubScorer())
    folders = [tmp_path / "run", *(path for path in (tmp_path / "run").rglob("*") if path.is_dir())]
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    try:
        for path in (*folders, *files):
            path.chmod(0o500)
        said = {
            words: in_a_fork(without_privileges, tuple(words.split()), tmp_path)
            for words in (
                "verify run",
                "replay run --id row-3",
                "report run",
                "report run -o page.html",
                "audit run",
                "audit run --output figures.json",
                "report run -o /dev/null",
            )
        }
        went_on = in_a_fork(without_privileges, command, tmp_path)
    finally:
        for path in folders:
            path.chmod(0o700)
    elsewhere = "Name another file with --output, or - for stdout."
    assert {words: (code, lines[-1].removeprefix("spectr-batch: ")) for words, (code, lines) in said.items()} == {
        "verify run": (0, "run is sound: of 20 records 20 completed, 0 failed, 0 to be decoded"),
        "replay run --id row-3": (0, "row-3: the same row"),
        "report run": (1, f"error: run/report.html cannot be written: Permission denied. {elsewhere}"),
        "report run -o page.html": (0, "wrote page.html"),
        "audit run": (
            0,
            f"warning: the verdict is not kept: run/audit.json cannot be written: Permission denied. {elsewhere}",
        ),
        "audit run --output figures.json": (0, "  false alarms       at most 1 audit in 1,000"),
        "report run -o /dev/null": (0, "wrote /dev/null"),
    }
    assert went_on == (1, [f"spectr-batch: error: [Errno 13] Permission denied: 'run/lock'. {GIVE_ACCESS}"])
    assert sorted(path for path in (tmp_path / "run").rglob("*") if path.is_file()) == sorted(files)
    assert json.loads((tmp_path / "figures.json").read_text())["passed"] is True
    assert "<h1>run</h1>" in (tmp_path / "page.html").read_text()
    assert Path("/dev/null").is_char_device()


def test_looking_at_a_lock_makes_no_file(tmp_path: Path):
    assert is_free(tmp_path / "none")
    assert is_free(tmp_path)
    assert [*tmp_path.iterdir()] == []
    held = Lock.try_take(tmp_path / "lock")
    assert not is_free(tmp_path)
    held.release()
    (tmp_path / "lock").chmod(0o400)
    assert is_free(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks(batch, command, whole: bytes, tmp_path: Path, monkeypatch, code: int):
    def flock(handle: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    result = batch(*command)
    assert (result.code, result.err) == (
        1,
        f"spectr-batch: error: run/lock cannot be locked: {os.strerror(code)}. "
        "Take a run directory on a file system with locks; on Lustre, mount it with -o flock.\n",
    )
    monkeypatch.undo()
    os.chdir(tmp_path)
    assert batch(*command).code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


@forks
@pytest.mark.parametrize("calls_left", [0, 3, 8])
def test_a_file_system_that_cannot_be_waited_for(batch, command, whole: bytes, tmp_path: Path, calls_left: int):
    real, left = os.fsync, [calls_left]

    def fsync(handle: int) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    def without_sync() -> None:
        os.fsync = journal._fdatasync = fsync

    code, said = in_a_fork(without_sync, command, tmp_path)
    assert code == 1
    assert said[-1].startswith("spectr-batch: error: [Errno 22] fsync: Invalid argument: 'run/")
    assert said[-1].endswith(f"'. Take a folder on a file system that supports it. {CONTINUE}")
    assert batch(*command).code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


def test_folders_that_cannot_be_waited_for_are_not(batch, command, whole: bytes, tmp_path: Path, monkeypatch):
    real = os.fsync

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert batch(*command).code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


@forks
@pytest.mark.parametrize("rows", [1, 5, 7])
def test_a_run_directory_that_is_moved_away_is_missed_and_not_made_again(
    batch, command, after_rows, whole: bytes, tmp_path: Path, rows: int
):
    code, said = in_a_fork(lambda: after_rows(rows, lambda: Path("run").rename("away")), command, tmp_path)
    assert code == 1
    assert said[-1].startswith("spectr-batch: error: [Errno 2] No such file or directory: 'run/shards")
    assert said[-1].endswith(f"'. Put it back. {CONTINUE}")
    assert not Path("run").exists()
    Path("away").rename("run")
    assert batch(*command).code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole
