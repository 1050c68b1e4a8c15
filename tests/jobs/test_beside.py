"""Records are read and rows are written on a thread beside the decoder's: the files are those of one thread alone."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from jobs_stub import StubDecoder, read_lines

from spectr_jobs.run_directory import directory
from spectr_jobs.run_directory.directory import ShardReader
from spectr_runtime.errors import SpectrError

OPTIONS = ("--shard-size", 5, "--batch-size", 4)


@pytest.fixture(autouse=True)
def none_left() -> Iterator[None]:
    yield
    assert "spectr-host" not in {thread.name for thread in threading.enumerate()}


@pytest.fixture
def inputs(tmp_path: Path) -> tuple[Path, ...]:
    """JSON Lines with records that fail early and late, the same compressed, and a table."""
    names = ["a", "long-1", "b", "flaky-2", "half-3", "c", "d", "e"]
    records = [{"id": f"{name}{row}", "prompt": f"{row}", "n": 1 + row % 3} for row in range(4) for name in names]
    lines = [json.dumps(record) for record in records] + ["no JSON", json.dumps({"id": "x", "prompt": 7})]
    plain, packed, table = tmp_path / "one.jsonl", tmp_path / "two.jsonl.gz", tmp_path / "three.csv"
    plain.write_text("\n".join(lines))
    packed.write_bytes(gzip.compress("\n".join(lines).replace('"id": "', '"id": "z').encode()))
    table.write_text("id,prompt\n" + "".join(f"t{row},text {row}\n" for row in range(13)))
    return plain, packed, table


def one_thread(self: StubDecoder, requests, take, stopped) -> None:
    for outcome in self.generate(requests):
        take(outcome)


def test_the_files_are_those_of_one_thread(batch, bundle, inputs, tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    def files(folder: str) -> list[bytes]:
        batch("run", bundle, *inputs, "-o", tmp_path / folder, *OPTIONS)
        return [(tmp_path / folder / name).read_bytes() for name in ("output.jsonl", "errors.jsonl")]

    beside = files("beside")
    monkeypatch.setattr(StubDecoder, "run", one_thread)
    assert files("alone") == beside
    assert all(beside)


def test_an_error_while_shards_are_read_ahead_loses_no_row(
    batch, bundle, inputs, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch("run", bundle, *inputs, "-o", tmp_path / "quiet", *OPTIONS)
    read = ShardReader.read

    def failing(self: ShardReader, shard: int):
        if shard == 4:
            raise SpectrError("The store cannot be reached.")
        return read(self, shard)

    with monkeypatch.context() as patch:
        patch.setattr(directory.ShardReader, "read", failing)
        result = batch("run", bundle, *inputs, "-o", tmp_path / "run", *OPTIONS)
    assert result.code == SpectrError.exit_code
    assert "The store cannot be reached." in result.err
    written = sum(len(read_lines(path)) for path in (tmp_path / "run" / "shards").glob("*/*.jsonl"))
    assert written >= result.decoder.finished // 3
    batch("run", bundle, *inputs, "-o", tmp_path / "run", *OPTIONS)
    for name in ("output.jsonl", "errors.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes()


def test_an_error_of_writing_ends_the_run_and_the_next_goes_on(
    batch, bundle, inputs, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spectr_jobs.run_directory.shard import Shard

    batch("run", bundle, *inputs, "-o", tmp_path / "quiet", *OPTIONS)
    add, count = Shard.add, iter(range(1000))

    def full(self: Shard, row, line: bytes) -> None:
        if next(count) == 11:
            raise OSError(28, "No space left on device", "output.jsonl")
        add(self, row, line)

    with monkeypatch.context() as patch:
        patch.setattr(Shard, "add", full)
        result = batch("run", bundle, *inputs, "-o", tmp_path / "run", *OPTIONS)
    assert result.code != 0
    assert "No space left on device" in result.err
    batch("run", bundle, *inputs, "-o", tmp_path / "run", *OPTIONS)
    for name in ("output.jsonl", "errors.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "quiet" / name).read_bytes()
