"""A real Ray on this machine, with the stub in the place of the decoder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jobs_stub
import pytest
from jobs_stub import write_lines

pytest.importorskip("ray")
RECORDS = 240
BAD_EVERY = 40
PAUSE = 0.06  # seconds a row: rows must be left when the second actor has started
OPTIONS = ("--shard-size", "20", "--max-error-rate", "1")


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Records, every fortieth of them bad, in the folder where commands are given; a read takes in a few of them."""
    monkeypatch.chdir(tmp_path)
    pad = "x" * 2000
    records = [{"id": n, "prompt": f"Say {n}" if n % BAD_EVERY else "", "pad": pad} for n in range(RECORDS)]
    return write_lines(Path("in.jsonl"), records)


@pytest.fixture
def whole(batch, bundle: Path, inputs: Path) -> dict[str, bytes]:
    """The merged files of a run in one process that nothing interrupted."""
    batch("run", bundle, inputs, "-o", "whole", *OPTIONS)
    return merged(Path("whole"))


def merged(run_dir: Path) -> dict[str, bytes]:
    return {name: (run_dir / name).read_bytes() for name in ("output.jsonl", "errors.jsonl")}


def rows_of(run_dir: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in run_dir.glob("shards/*/*.jsonl"))


def wait_for(happened: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    while not happened():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.02)


@pytest.fixture
def process(bundle: Path, inputs: Path):
    """``submit ray`` in a process of its own."""
    command = [sys.executable, jobs_stub.__file__, str(PAUSE), "submit", "ray", "--ranks", "2", "--cpus", "1", "--"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with subprocess.Popen(
        [*command, str(bundle), str(inputs), "-o", "run", *OPTIONS],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        yield started
        started.kill()


def pids(run_dir: Path) -> list[int]:
    """The processes that decode, oldest first."""
    return [int(path.stem.partition("-")[2]) for path in sorted(run_dir.glob("sessions/*.jsonl"))]


def test_the_shards_of_a_killed_actor_are_taken_up_by_another(
    batch, process: subprocess.Popen[str], whole: dict[str, bytes]
):
    run_dir = Path("run")
    wait_for(lambda: len(pids(run_dir)) == 2 and rows_of(run_dir) > 30, process)
    lost, other = pids(run_dir)
    os.kill(other, signal.SIGSTOP)  # or it may finish all before the third has started
    os.kill(lost, signal.SIGKILL)
    wait_for(lambda: len(pids(run_dir)) == 3, process)
    os.kill(other, signal.SIGCONT)
    out, said = process.communicate()
    assert (process.returncode, out) == (0, ""), said
    assert "was lost; its shards are taken up again" in said
    assert "decoding 240 records, 2 Ray actors: auto, batch auto" in said
    assert "actor 0: batch size 8: the stub says so" in said
    assert len(pids(run_dir)) == 3
    assert merged(run_dir) == whole
    assert batch("verify", run_dir).code == 0


def test_an_input_that_changes_ends_the_run_with_65_and_is_decoded_once_it_is_back(
    process: subprocess.Popen[str], batch, bundle: Path, whole: dict[str, bytes], inputs: Path
):
    kept = inputs.read_bytes()
    wait_for(lambda: rows_of(Path("run")) >= 5, process)
    inputs.write_bytes(kept.replace(b"Say", b"Cry"))  # in place: an actor may have the file open
    _, told = process.communicate()
    assert process.returncode == 65, told
    assert "Input in.jsonl has changed, so shard " in told
    assert {row for path in Path("run").glob("shards/*/output.jsonl") for row in path.read_bytes().splitlines()} <= set(
        whole["output.jsonl"].splitlines()
    )
    inputs.write_bytes(kept)
    assert batch("run", bundle, inputs, "-o", "run", *OPTIONS).code == 0
    assert merged(Path("run")) == whole


def test_a_signal_drains_the_actors_and_another_driver_goes_on(
    batch, bundle: Path, inputs: Path, process: subprocess.Popen[str], whole: dict[str, bytes]
):
    run_dir = Path("run")
    wait_for(lambda: rows_of(run_dir) > 30, process)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert process.returncode == 75, said
    done = rows_of(run_dir)
    assert done < RECORDS
    assert f"spectr-batch: error: stopped by SIGTERM after {done} rows. Run the same command again" in said
    again = batch("run", bundle, inputs, "-o", run_dir, *OPTIONS)
    assert again.code == 0
    assert 0 < again.decoder.finished <= RECORDS - done
    assert merged(run_dir) == whole


def test_a_cluster_that_is_not_there_is_a_wrong_usage(batch, bundle: Path, inputs: Path):
    result = batch("submit", "ray", "--ranks", 1, "--address", "nowhere", "--", bundle, inputs, "-o", "run")
    assert (result.code, result.decoder) == (2, None)
    assert result.err.splitlines()[-1] == (
        "spectr-batch: error: --address nowhere: Invalid address format: nowhere. Is the cluster up?"
    )
