"""Any tasks of a queue finish a run: shards that no living process has are taken up by those that have done theirs."""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs_stub import write_lines

from spectr_jobs.drivers.shards import left_over
from spectr_jobs.errors import Interrupted
from spectr_jobs.run_directory import claim as module
from spectr_jobs.run_directory.claim import Claim, Holder, find_dead, holder
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.shard import Shard
from spectr_jobs.work.stop import Stop


@pytest.fixture
def command(bundle: Path, prompts: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 4)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.05)
    monkeypatch.setattr(module, "STALE", 2.0)


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From its call on, this process is one of another machine."""
    return lambda: monkeypatch.setattr(module, "_machine", lambda: "another")


def sealed(run_dir: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in run_dir.glob("shards/*/sealed.json"))


@pytest.mark.parametrize("tasks", [[(0, 8)], [(7, 8)], [(1, 2), (0, 2)], [(2, 2), (4, 2)], [(9, 3)]])
def test_whichever_tasks_come_the_run_is_finished(
    batch, command, bundle: Path, prompts: Path, tmp_path: Path, tasks: list[tuple[int, int]]
):
    batch("run", bundle, prompts, "-o", tmp_path / "whole")
    codes = [batch(*command, "--rank", rank, "--world", world).code for rank, world in tasks]
    assert codes == [0] * len(tasks)
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == (tmp_path / "whole" / "output.jsonl").read_bytes()
    assert not list((tmp_path / "run").rglob("claim*"))


def test_failures_in_the_shards_of_others_count_for_the_one_that_took_them(batch, bundle: Path, tmp_path: Path):
    records = [{"id": f"{'long-' * (4 <= n < 8)}{n}", "prompt": "x"} for n in range(12)]
    path = write_lines(tmp_path / "in.jsonl", records)
    command = ("run", bundle, path, "-o", tmp_path / "run", "--shard-size", 4)
    assert batch(*command, "--rank", 0, "--world", 2, own_shards=True).code == 0
    assert batch(*command, "--rank", 7, "--world", 5).code == 3


def test_ranks_with_a_mirror_keep_to_their_shards(batch, command, tmp_path: Path):
    pytest.importorskip("fsspec")
    result = batch(*command, "--rank", 1, "--world", 2, "--mirror", "memory://mirror/of-a-rank")
    assert result.code == 0
    assert sealed(tmp_path / "run") == [1, 3]


def test_a_shard_of_a_living_process_of_another_machine_is_left_to_it(
    batch, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    batch(*command, "--rank", 0, "--world", 2, own_shards=True)
    run = RunDirectory.open(tmp_path / "run")
    run.shard(1).mkdir()
    with monkeypatch.context() as there:
        there.setattr(module, "_machine", lambda: "another")
        other = Claim.try_take(run.shard(1))
    assert other is not None
    result = batch(*command, "--rank", 1, "--world", 2)
    assert result.code == 0
    assert sealed(tmp_path / "run") == [0, 2, 3, 4]
    assert "rank 1 of 2 (set by --rank and --world): done, " in result.err
    alone = batch(*command)
    assert alone.code == 75
    assert f"another process is at work on {tmp_path}/run (process {os.getpid()} on " in alone.err
    other.release()
    assert batch(*command, "--rank", 0, "--world", 2).code == 0
    assert sealed(tmp_path / "run") == [0, 1, 2, 3, 4]


def test_a_shard_of_a_dead_process_of_another_machine_is_waited_for_and_taken(
    batch, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    batch(*command, "--rank", 0, "--world", 2, own_shards=True)
    run = RunDirectory.open(tmp_path / "run")
    run.shard(3).mkdir()
    dead = Holder("another", "node", 7)
    (run.shard(3) / "claim.0").write_text(json.dumps(dataclasses.asdict(dead)))
    assert holder(run.shard(3)) == dead
    assert batch(*command, "--rank", 1, "--world", 2).code == 0
    assert sealed(tmp_path / "run") == [0, 1, 2, 3, 4]


def test_a_claim_is_renewed_while_its_process_lives(tmp_path: Path, elsewhere: Callable[[], None]):
    claim = Claim.try_take(tmp_path)
    assert claim is not None
    assert holder(tmp_path) is None, "a claim of this machine is left to the lock"
    elsewhere()
    time.sleep(module.STALE + 0.1)
    found = holder(tmp_path)
    assert found is not None
    assert str(found).startswith(f"process {os.getpid()} on ")
    assert find_dead([tmp_path], lambda: False) == []
    assert Claim.try_take(tmp_path) is None
    claim.release()
    assert holder(tmp_path) is None
    assert find_dead([tmp_path], lambda: False) == []


def test_a_process_that_was_suspended_notices_before_it_seals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Callable[[], None]
):
    monkeypatch.setattr(Claim, "_renew", lambda self: None)
    shard = Shard.try_open(tmp_path / "shard", packed=False)
    assert shard is not None
    time.sleep(module.STALE + 0.1)
    elsewhere()
    other = Claim.try_take(tmp_path / "shard")
    assert other is not None
    with pytest.raises(Interrupted, match="was taken over by another process"):
        shard.seal()
    assert not (tmp_path / "shard" / "sealed.json").exists()
    shard.close()
    other.check()


def test_of_many_processes_one_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    stale = Holder("another", "node", 7)
    for turn in range(20):
        folder = tmp_path / str(turn)
        folder.mkdir()
        (folder / "claim.0").write_text(json.dumps(dataclasses.asdict(stale)))
        os.utime(folder / "claim.0", (0, 0))
        taken: list[Claim] = []
        machine = threading.local()
        monkeypatch.setattr(module, "_machine", lambda here=machine: here.name)

        def take(name: str, folder: Path = folder, here: threading.local = machine, into: list[Claim] = taken) -> None:
            here.name = name
            claim = Claim.try_take(folder)
            if claim is not None:
                into.append(claim)

        threads = [threading.Thread(target=take, args=(str(number),)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        machine.name = "here"
        (one,) = taken
        one.check()
        one.release()


def test_a_number_is_not_given_twice(tmp_path: Path, elsewhere: Callable[[], None]):
    first = Claim.try_take(tmp_path)
    assert first is not None
    first.release()
    elsewhere()
    second = Claim.try_take(tmp_path)
    assert second is not None
    assert [path.name for path in tmp_path.iterdir()] == ["claim.1"]
    second.check()
    with pytest.raises(Interrupted):
        first.check()
    second.release(sealed=True)
    assert list(tmp_path.iterdir()) == []


def test_a_claim_that_is_not_whole_is_that_of_an_unknown_process(tmp_path: Path):
    (tmp_path / "claim.0").write_text("{")
    found = holder(tmp_path)
    assert str(found) == "process 0 on a machine that the claim does not name"
    os.utime(tmp_path / "claim.0", (0, 0))
    claim = Claim.try_take(tmp_path)
    assert claim is not None
    claim.release()


def test_rows_of_two_processes_in_one_journal_are_not_sealed_with_gaps(tmp_path: Path):
    shard = Shard.try_open(tmp_path / "shard", packed=False)
    assert shard is not None
    shard.order += ["a"]
    shard.exhausted = True
    with pytest.raises(Exception, match="holds rows of 0 records, not of 1"):
        shard.seal()
    shard.close()


def test_what_is_left_is_looked_for_from_the_end(batch, command, tmp_path: Path):
    batch(*command, "--rank", 0, "--world", 2, own_shards=True)
    run = RunDirectory.open(tmp_path / "run")
    opened = [Shard.try_open(run.shard(number), packed=False) for number in left_over(run, (), Stop())]
    assert [shard.folder.name for shard in opened if shard is not None] == ["00003", "00001"]
    for shard in opened:
        assert shard is not None
        shard.close()


def test_a_full_disk_leaves_no_claim(tmp_path: Path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        with pytest.raises(OSError, match=r"File too large: '.*/claim\.0'"):
            Claim.try_take(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [*tmp_path.iterdir()] == []


def test_a_claim_that_was_released_names_nobody(tmp_path: Path):
    claim = Claim.try_take(tmp_path)
    claim.release()
    assert ((tmp_path / "claim.0").read_bytes(), holder(tmp_path)) == (b"null", None)
