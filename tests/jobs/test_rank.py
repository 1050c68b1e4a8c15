from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from spectr_jobs.drivers.rank import Rank, detect
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_runtime import UsageError

ARRAY = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_MIN": "3",
    "SLURM_ARRAY_TASK_COUNT": "4",
    "SLURM_ARRAY_TASK_STEP": "2",
}
STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1", "SLURM_NTASKS": "5"}
KUBERNETES = {"JOB_COMPLETION_INDEX": "2"}
SKYPILOT = {"SKYPILOT_NODE_RANK": "1", "SKYPILOT_NUM_NODES": "2"}


@pytest.mark.parametrize(
    ("rank", "world", "environment", "expected"),
    [
        (None, None, {}, Rank(0, 1, "default")),
        (None, 1, {}, Rank(0, 1, "default")),
        (1, 3, ARRAY | STEP | KUBERNETES | SKYPILOT, Rank(1, 3, "--rank and --world", beside=3)),
        (None, None, ARRAY | KUBERNETES | SKYPILOT, Rank(2, 4, "SLURM_ARRAY_TASK_ID")),
        (None, None, ARRAY | STEP, Rank(11, 20, "SLURM_ARRAY_TASK_ID", beside=5)),
        (None, None, STEP | SKYPILOT, Rank(1, 5, "SLURM_PROCID", beside=5)),
        (None, None, STEP | {"SLURM_STEP_NUM_TASKS": "2"}, Rank(1, 2, "SLURM_PROCID", beside=2)),
        (None, None, STEP | {"SLURM_STEP_NUM_NODES": "2"}, Rank(1, 5, "SLURM_PROCID", beside=3)),
        (None, None, STEP | {"SLURM_STEP_NUM_NODES": "5"}, Rank(1, 5, "SLURM_PROCID")),
        (None, 8, KUBERNETES | SKYPILOT, Rank(2, 8, "JOB_COMPLETION_INDEX")),
        (None, None, SKYPILOT, Rank(1, 2, "SKYPILOT_NODE_RANK")),
        (None, 2, KUBERNETES, Rank(2, 2, "JOB_COMPLETION_INDEX")),
        (None, None, ARRAY | {"SLURM_ARRAY_TASK_ID": "30"}, Rank(13, 4, "SLURM_ARRAY_TASK_ID")),
        (None, None, {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}, Rank(0, 1, "default")),
    ],
)
def test_the_first_that_tells_a_rank_wins(
    rank: int | None, world: int | None, environment: dict[str, str], expected: Rank
):
    assert detect(rank, world, environment) == expected


@pytest.mark.parametrize(
    ("rank", "world", "environment", "message"),
    [
        (1, None, {}, "--rank came without --world"),
        (None, 3, {}, "--world 3 came without --rank"),
        (None, None, KUBERNETES, "Set SPECTR_WORLD"),
        (None, None, SKYPILOT | {"SKYPILOT_NUM_NODES": "two"}, "SKYPILOT_NUM_NODES is 'two'"),
        (None, None, {"SLURM_ARRAY_TASK_ID": "1"}, "SLURM_ARRAY_TASK_MIN is None"),
        (0, 0, {}, r"Rank 0 of 0 \(set by --rank and --world\); allowed are ranks from 0, of at least 1."),
    ],
)
def test_half_a_rank_is_refused(rank: int | None, world: int | None, environment: dict[str, str], message: str):
    with pytest.raises(UsageError, match=message):
        detect(rank, world, environment)


@pytest.mark.parametrize("world", [1, 2, 3, 7, 20])
def test_ranks_share_out_every_shard_once(world: int):
    taken = [shard for index in range(world) for shard in Rank(index, world, "test").shards(10)]
    assert sorted(taken) == list(range(10))


@pytest.mark.parametrize(("index", "first"), [(0, 0), (3, 0), (7, 1), (13, 1)])
def test_a_rank_outside_its_world_begins_with_the_shards_of_one_inside(index: int, first: int):
    assert Rank(index, 3, "test").shards(10) == range(first, 10, 3)


def test_ranks_may_begin_a_run_at_the_same_instant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    listed = Path.iterdir

    def just_before(folder: Path) -> Iterator[Path]:
        (folder / "lock").touch()  # as the other rank does
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", just_before)
    RunDirectory.reserve(tmp_path)
