"""Inputs that change while they are decoded: no record of other bytes is decoded, and nothing is lost."""

from __future__ import annotations

import copy
import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from jobs_stub import read_lines, write_lines

from spectr_jobs.errors import InputChanged
from spectr_jobs.run_directory.directory import RunDirectory, ShardReader
from spectr_jobs.work.worker import Skipped

Change = Callable[[Path], None]


def empty(path: Path) -> None:
    """As a log rotation with copytruncate does."""
    path.write_bytes(b"")


def rewrite_longer(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"Say", b"Say it loud:"))


def rewrite_alike(path: Path) -> None:
    """The same length, ids, times of change and inode."""
    before = path.stat()
    with path.open("r+b") as file:
        text = file.read().replace(b"Say", b"Cry")
        file.seek(0)
        file.write(text)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_alike(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes().replace(b"Say", b"Cry"))
    other.replace(path)


def remove(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def insert(path: Path) -> None:
    path.write_bytes(b'{"id":"new","prompt":"x"}\n' + path.read_bytes())


CHANGES = [empty, rewrite_longer, rewrite_alike, replace_alike, remove, cut, insert]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Twenty records, each larger than what is read from a file at once."""
    records = [{"id": f"row-{n}", "prompt": f"Say {n}", "max_tokens": 5, "pad": "x" * 40_000} for n in range(20)]
    return write_lines(tmp_path / "prompts.jsonl", records)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def whole(batch, bundle: Path, prompts: Path, tmp_path: Path) -> bytes:
    batch("run", bundle, prompts, "-o", tmp_path / "whole")
    return (tmp_path / "whole" / "output.jsonl").read_bytes()


def rows_of(run_dir: Path) -> list[dict]:
    return [row for path in run_dir.glob("shards/*/output.jsonl") for row in read_lines(path)]


@pytest.mark.parametrize("ranks", [(), ("--rank", 0, "--world", 2)], ids=["alone", "rank"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_no_row_comes_of_other_bytes_and_the_same_command_goes_on(
    batch, bundle: Path, prompts: Path, run_dir: Path, whole: bytes, after_rows, change: Change, ranks: tuple
):
    kept = prompts.read_bytes()
    command = ("run", bundle, prompts, "-o", run_dir, "--shard-size", 4, "--batch-size", 2)
    after_rows(5, lambda: change(prompts))
    result = batch(*command, *ranks)
    if change in (replace_alike, remove) and not ranks:  # the file stays open, and so the same
        assert result.code == 0
        assert (run_dir / "output.jsonl").read_bytes() == whole
        return
    assert result.code == 65
    message = result.err.splitlines()[-1]
    assert message.startswith(f"spectr-batch: error: Input {prompts} has changed, so shard ")
    assert "more shards could not be decoded." in message
    assert message.endswith("Put it back as it was, then run the same command again.")
    expected = {json.dumps(row) for row in map(json.loads, whole.splitlines())}
    found = rows_of(run_dir)
    assert 4 <= len(found) < 20
    assert {json.dumps(row) for row in found} <= expected
    prompts.write_bytes(kept)
    assert batch(*command).code == 0
    assert (run_dir / "output.jsonl").read_bytes() == whole
    assert batch("verify", run_dir).code == 0


def test_records_that_are_appended_change_nothing(
    batch, bundle: Path, prompts: Path, run_dir: Path, whole: bytes, after_rows
):
    def append() -> None:
        with prompts.open("ab") as file:
            file.write(b'{"id":"late","prompt":"x"}\n')

    after_rows(5, append)
    assert batch("run", bundle, prompts, "-o", run_dir, "--shard-size", 4).code == 0
    assert (run_dir / "output.jsonl").read_bytes() == whole


def test_the_shards_of_other_inputs_are_decoded(
    batch, bundle: Path, prompts: Path, run_dir: Path, tmp_path: Path, after_rows
):
    second = tmp_path / "second.jsonl"
    second.write_text("".join(f'{{"id": {n}, "prompt": "x"}}\n' for n in range(8)))
    after_rows(5, lambda: empty(prompts))
    result = batch("run", bundle, prompts, second, "-o", run_dir, "--shard-size", 4, "--batch-size", 2)
    assert result.code == 65
    assert {row["id"] for row in rows_of(run_dir)} >= set(range(8))


def test_a_compressed_input_that_is_damaged_meanwhile_is_a_changed_one(
    batch, bundle: Path, prompts: Path, run_dir: Path, whole: bytes, after_rows, tmp_path: Path
):
    packed = tmp_path / "in.jsonl.gz"
    # Random ids keep it from becoming so small that all of it is read at once.
    lines = [{"id": f"{n}-{os.urandom(3000).hex()}", "prompt": "x", "max_tokens": 1} for n in range(60)]
    packed.write_bytes(gzip.compress("".join(json.dumps(line) + "\n" for line in lines).encode()))
    after_rows(5, lambda: os.truncate(packed, packed.stat().st_size // 2))
    result = batch("run", bundle, packed, "-o", run_dir, "--shard-size", 4, "--batch-size", 2)
    assert result.code == 65
    assert f"Input {packed} has changed, so shard " in result.err


def test_a_changed_object_is_noticed(batch, bundle: Path, prompts: Path, run_dir: Path, whole: bytes, after_rows):
    fsspec = pytest.importorskip("fsspec")
    url, store = "memory://changed/prompts.jsonl", fsspec.filesystem("memory")
    store.pipe(url, prompts.read_bytes())
    # The shards of a rank do not follow each other, so the object is opened for each.
    command = ("run", bundle, url, "-o", run_dir, "--shard-size", 4, "--batch-size", 2, "--rank", 0, "--world", 2)
    after_rows(5, lambda: store.pipe(url, prompts.read_bytes().replace(b"Say", b"Cry")))
    result = batch(*command)
    assert result.code == 65
    assert "Input memory://changed/prompts.jsonl has changed, so shard " in result.err


def test_verify_reads_the_inputs_again(batch, bundle: Path, prompts: Path, run_dir: Path, monkeypatch):
    batch("run", bundle, prompts, "-o", run_dir, "--shard-size", 4)
    rewrite_alike(prompts)
    # As where a store reports no version by which the change could be told.
    monkeypatch.setattr("spectr_jobs.commands.verify.changed_sources", lambda run: iter(()))
    result = batch("verify", run_dir)
    assert result.code == 1
    assert f"Input {prompts} has changed, so shard 0 cannot be decoded: it holds other lines than when" in result.err


def test_a_reader_reads_other_shards_after_a_changed_one(batch, bundle: Path, prompts: Path, run_dir: Path):
    batch("run", bundle, prompts, "-o", run_dir, "--shard-size", 4)
    prompts.write_bytes(prompts.read_bytes().replace(b"Say 5", b"Cry 5"))
    reader = ShardReader(RunDirectory.open(run_dir).manifest)
    assert len([*reader.read(0)]) == 4
    with pytest.raises(InputChanged):
        reader.read(1)
    assert [record.origin.key for record in reader.read(2)] == ["row-8", "row-9", "row-10", "row-11"]


def test_what_an_actor_skipped_travels(tmp_path: Path):
    skipped = Skipped([3], {1: InputChanged("other", hint="back")})
    both = Skipped()
    both.add(copy.deepcopy(skipped))
    assert both.busy == [3]
    assert str(both.changed[1]) == "other back"
