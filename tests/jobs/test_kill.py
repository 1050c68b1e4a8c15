from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jobs_stub
import pytest
from jobs_stub import StubDecoder, read_lines, write_lines

from spectr_jobs.cli import main as cli
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.directory import PARTS, ShardReader
from spectr_jobs.work import models as seam
from spectr_jobs.work import stop

# Python warns of forks of processes with threads; the ones of torch are idle, and the children load no model.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
fork = multiprocessing.get_context("fork")
RECORDS = 400
SHARD_SIZE = 20
PAUSE = 0.01
LIVES = 6  # of each of two ranks; all together they are too short for a rank's records
LIFE = 0.25

Process = multiprocessing.process.BaseProcess


def start(*arguments: object, pause: float = PAUSE, trap: Callable[[], None] = lambda: None) -> Process:
    """``spectr-batch`` in a fork of this process, which has everything imported."""

    def command() -> None:
        seam.open_decoder = lambda bundle, setup, *, seed, date: StubDecoder(batch_size=4, seed=seed, pause=pause)
        trap()
        sys.exit(cli.call([str(argument) for argument in arguments]))

    process = fork.Process(target=command)
    process.start()
    return process


def code_of(process: Process) -> int | None:
    process.join()
    return process.exitcode


def finished(run_dir: Path) -> dict[str, bytes]:
    """Every whole line on the disk, by its record."""
    paths = [folder / name for folder in run_dir.glob("shards/*") for name in PARTS]
    return {str(json.loads(line)["id"]): line for path in paths for line in journal.lines(path)}


def merged(run_dir: Path) -> dict[str, bytes]:
    return {name: b"".join(journal.lines(run_dir / name)) for name in PARTS}


def write_records(path: Path, count: int) -> Path:
    """Records, every tenth of them bad."""
    return write_lines(path, [{"id": n, "prompt": f"Say {n}" if n % 10 else ""} for n in range(count)])


@pytest.mark.parametrize("seed", range(5))
def test_killed_at_random_instants_nothing_is_lost_or_done_twice(batch, bundle: Path, tmp_path: Path, seed: int):
    chance = random.Random(seed)
    prompts = write_records(tmp_path / "prompts.jsonl", RECORDS)
    run_dir = tmp_path / "run"
    options = ("--shard-size", SHARD_SIZE, "--max-error-rate", 1)

    def ranks(world: int) -> list[Process]:
        common = ("run", bundle, prompts, "-o", run_dir, *options, "--world", world)
        return [start(*common, "--rank", rank) for rank in range(world)]

    kept: dict[str, bytes] = {}
    for _ in range(LIVES):
        first, second = sorted(chance.uniform(0, LIFE) for _ in range(2))
        for process, wait in zip(chance.sample(ranks(2), 2), (first, second - first), strict=True):
            process.join(wait)
            process.kill()
            assert code_of(process) == -signal.SIGKILL
        now = finished(run_dir)
        assert kept.items() <= now.items()
        kept = now
    assert [code_of(process) for process in ranks(3)] == [0, 0, 0]

    assert kept.items() <= finished(run_dir).items()
    assert batch("run", bundle, prompts, "-o", tmp_path / "whole", *options).code == 0
    assert merged(run_dir) == merged(tmp_path / "whole")
    assert len(read_lines(run_dir / "output.jsonl")) == RECORDS - RECORDS // 10
    assert batch("verify", run_dir).code == 0


class Trap:
    """Kills this process at one of its calls that change a file; a write is torn in the middle.

    Files that are written through a buffer are covered by their sync and their renaming.
    """

    CALLS = ("write", "fsync", "fdatasync", "replace", "rename", "ftruncate", "truncate", "unlink", "mkdir")

    def __init__(self, at: int) -> None:
        self._left = at

    def set(self) -> None:
        for name in self.CALLS:
            setattr(os, name, self._trapped(name, getattr(os, name)))
        journal._fdatasync = os.fdatasync

    def _trapped(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def trapped(*arguments: Any, **options: Any) -> Any:
            self._left -= 1
            if self._left == 0:
                if name == "write":
                    call(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **options)

        return trapped


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch):
    """Syncs that do not wait: a killed process leaves its writes to the kernel, only a power cut does not."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(os, "fdatasync", lambda handle: None)
    monkeypatch.setattr(journal, "_fdatasync", os.fdatasync)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("compress", [(), ("--compress", "zst")])
def test_killed_at_every_change_of_a_file_the_run_goes_on(
    batch, bundle: Path, tmp_path: Path, compress: tuple[str, ...]
):
    prompts = write_records(tmp_path / "prompts.jsonl", 6)
    options = ("--shard-size", 3, "--max-error-rate", 1, *compress)
    batch("run", bundle, prompts, "-o", tmp_path / "whole", *options)
    for at in itertools.count(1):
        run_dir = tmp_path / f"run-{at}"
        command = ("run", bundle, prompts, "-o", run_dir, *options)
        if code_of(start(*command, pause=0, trap=Trap(at).set)) == 0:
            break
        kept = finished(run_dir)
        result = batch(*command)
        assert result.code == 0, result.err
        assert kept.items() <= finished(run_dir).items()
        assert merged(run_dir) == merged(tmp_path / "whole")
    assert at > 40, at
    assert batch("verify", run_dir).code == 0


def test_the_command_itself_drains_on_a_signal_and_leaves_on_a_second(bundle: Path, tmp_path: Path):
    prompts = write_lines(tmp_path / "prompts.jsonl", [{"id": n, "prompt": "x"} for n in range(200)])
    run_dir = tmp_path / "run"
    script = [sys.executable, jobs_stub.__file__, "0.05", "run", str(bundle), str(prompts), "-o", str(run_dir)]

    def started(*arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*script, *arguments], stderr=subprocess.DEVNULL)
        before = len(finished(run_dir))
        while len(finished(run_dir)) == before and process.poll() is None:
            time.sleep(0.02)
        return process

    once = started()
    once.send_signal(signal.SIGTERM)
    assert once.wait() == 75
    (session,) = (run_dir / "sessions").iterdir()
    assert read_lines(session)[-1]["reason"] == "SIGTERM"

    twice = started("--batch-size", "100", "--drain-timeout", "1h")
    twice.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    twice.send_signal(signal.SIGTERM)
    assert twice.wait() == 75
    assert 0 < len(finished(run_dir)) < 200


def test_an_input_that_does_not_answer_holds_nobody_up_after_the_drain(bundle: Path, tmp_path: Path):
    """The reading of the second shard hangs, and nothing can interrupt it."""
    prompts, answered = write_records(tmp_path / "prompts.jsonl", 40), tmp_path / "answered"
    read = ShardReader.read

    def hang() -> None:
        def slow(self: ShardReader, number: int) -> Any:
            if number:
                time.sleep(20)
                answered.touch()
            return read(self, number)

        ShardReader.read, stop.GRACE = slow, 0.2  # type: ignore[method-assign]

    options = ("--shard-size", 20, "--batch-size", 4, "--max-error-rate", 1)
    command = ("run", bundle, prompts, "-o", tmp_path / "run", *options)
    assert code_of(start(*command, "--time-limit", "2", "--drain-timeout", "0.2", pause=0, trap=hang)) == 75
    assert not answered.exists()
    assert len(finished(tmp_path / "run")) >= 10, "what had ended was written before the next shard was read"
    assert code_of(start(*command, pause=0)) == 0
    assert len(finished(tmp_path / "run")) == 40
