from __future__ import annotations

import json
import multiprocessing
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jobs_stub
import pytest
from jobs_stub import StubDecoder, read_lines, write_lines

from spectr_jobs import cli
from spectr_jobs import setup as seam

# Python warns of forks of processes with threads; the ones of torch are idle, and the children load no model.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
fork = multiprocessing.get_context("fork")
RECORDS = 90
PAUSE = 0.015


def command(arguments: Sequence[object]) -> None:
    seam.open_decoder = lambda bundle, setup, *, seed: StubDecoder(batch_size=4, seed=seed, pause=PAUSE)
    sys.exit(cli.call([str(argument) for argument in arguments]))


def start(*arguments: object) -> multiprocessing.process.BaseProcess:
    process = fork.Process(target=command, args=(arguments,))
    process.start()
    return process


def finished(run_dir: Path) -> dict[str, bytes]:
    """Every whole line on the disk, by its record."""
    lines = [line for path in run_dir.glob("shards/*/output.jsonl") for line in path.read_bytes().split(b"\n")[:-1]]
    return {str(json.loads(line)["id"]): line for line in lines}


@pytest.mark.parametrize("seed", range(4))
def test_killed_at_any_instant_nothing_is_lost_or_done_twice(bundle: Path, tmp_path: Path, seed: int):
    chance = random.Random(seed)
    records = [{"id": n, "prompt": f"Say {n}" if n % 10 else ""} for n in range(RECORDS)]
    prompts = write_lines(tmp_path / "prompts.jsonl", records)
    run_dir = tmp_path / "run"

    def ranks(world: int, output: Path = run_dir) -> list[multiprocessing.process.BaseProcess]:
        common = ("run", bundle, prompts, "-o", output, "--shard-size", 8, "--max-error-rate", 1, "--world", world)
        return [start(*common, "--rank", rank) for rank in range(world)]

    kept: dict[str, bytes] = {}
    for attempt in range(3):
        for process in ranks(2):
            process.join(chance.uniform(0, 0.2))
            process.kill()
            process.join()
            assert attempt > 0 or process.exitcode == -signal.SIGKILL
        now = finished(run_dir)
        assert kept.items() <= now.items()
        kept = now
    for process in ranks(3):
        process.join()
        assert process.exitcode == 0
    assert kept.items() <= finished(run_dir).items()

    (whole,) = ranks(1, tmp_path / "whole")
    whole.join()
    for name in ("output.jsonl", "errors.jsonl"):
        assert (run_dir / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert len(read_lines(run_dir / "output.jsonl")) == RECORDS - RECORDS // 10
    check = start("verify", run_dir)
    check.join()
    assert check.exitcode == 0


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
