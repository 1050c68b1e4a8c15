from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard
from jobs_stub import write_lines

from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.shard import Shard


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    records = [{"id": n, "prompt": f"Say {n}"} for n in range(20)]
    return write_lines(tmp_path / "in.jsonl", [*records, {"id": "flaky", "prompt": "x"}, {"id": "long", "prompt": "x"}])


@pytest.fixture
def command(bundle: Path, inputs: Path, tmp_path: Path) -> tuple[object, ...]:
    return (
        "run",
        bundle,
        inputs,
        "-o",
        tmp_path / "run",
        "--shard-size",
        6,
        "--max-error-rate",
        1,
        "--compress",
        "zst",
    )


def unpacked(path: Path) -> bytes:
    with path.open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()


def test_what_is_sealed_and_merged_is_compressed_and_holds_the_same_rows(batch, command, tmp_path: Path):
    run_dir = tmp_path / "run"
    batch(*command[:4], tmp_path / "plain", *command[5:-2])
    assert batch(*command).code == 0
    assert {path.name for path in (run_dir / "shards" / "00001").iterdir()} == {
        "output.jsonl.zst",
        "errors.jsonl.zst",
        "sealed.json",
        "lock",
    }
    for name in ("output.jsonl", "errors.jsonl"):
        assert unpacked(run_dir / f"{name}.zst") == (tmp_path / "plain" / name).read_bytes()
        assert not (run_dir / name).exists()
    assert (run_dir / "shards" / "00001" / "errors.jsonl.zst").read_bytes() == b""


def test_every_command_reads_it(batch, command, tmp_path: Path):
    batch(*command)
    assert batch("verify", tmp_path / "run").err.endswith("of 22 records 20 completed, 2 failed, 0 to be decoded\n")
    assert batch("replay", tmp_path / "run", "--id", 7).code == 0
    assert batch("report", tmp_path / "run").code == 0
    assert "non_finite_logits" in (tmp_path / "run" / "report.html").read_text()
    again = batch(*command)
    assert (again.code, again.decoder) == (0, None)
    assert f"  output             {tmp_path}/run/output.jsonl.zst" in again.err.splitlines()
    shard = tmp_path / "run" / "shards" / "00002" / "output.jsonl.zst"
    whole = shard.read_bytes()
    shard.write_bytes(whole + zstandard.compress(b""))
    assert f"{shard} was altered" in batch("verify", tmp_path / "run").err
    shard.write_bytes(whole[:-1])
    damaged = batch("verify", tmp_path / "run")
    assert damaged.code == 1
    assert damaged.err.splitlines()[0] == (
        f"spectr-batch: {shard} is damaged: the file ends in the middle of its compressed data. "
        f"Remove the folder {shard.parent}; the next run of the same command decodes its records again."
    )
    shutil.rmtree(shard.parent)
    mended = batch(*command)
    assert (mended.code, mended.decoder.finished) == (0, 6)
    assert batch("verify", tmp_path / "run").code == 0


def test_failures_are_retried_out_of_it(batch, command, tmp_path: Path):
    batch(*command)
    again = batch(*command, "--retry-errors", flaky=False)
    assert (again.code, again.decoder.finished) == (0, 1)
    assert len(list(journal.lines(tmp_path / "run" / "output.jsonl"))) == 21
    assert batch("verify", tmp_path / "run").code == 0


def test_it_comes_back_from_a_mirror(batch, command, tmp_path: Path):
    mirror = ("--mirror", f"memory://{tmp_path.name}/compressed")
    batch(*command, *mirror)
    before = (tmp_path / "run" / "output.jsonl.zst").read_bytes()
    shutil.rmtree(tmp_path / "run")
    result = batch(*command, *mirror)
    assert (result.code, result.decoder) == (0, None)
    assert (tmp_path / "run" / "output.jsonl.zst").read_bytes() == before


def test_a_run_is_compressed_from_its_start_or_never(batch, command):
    batch(*command[:-2])
    result = batch(*command)
    assert result.code == 2
    assert "started with other values: --compress was None, now it is zst." in result.err


def test_a_missing_package_is_named_before_anything_is_decoded(
    batch, command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    result = batch(*command)
    assert (result.code, result.decoder, (tmp_path / "run").exists()) == (2, None, False)
    assert result.err == (
        "spectr-batch: error: --compress zst needs zstandard. Install it with `pip install 'spectr[zstd]'`.\n"
    )


@pytest.mark.skipif(shutil.which("zstd") is None, reason="the command zstd is not here")
def test_the_command_zstd_reads_it(batch, command, tmp_path: Path):
    batch(*command)
    read = subprocess.run(
        ["zstd", "-dc", tmp_path / "run" / "output.jsonl.zst"], capture_output=True, check=True
    ).stdout.splitlines()
    assert [json.loads(line)["id"] for line in read] == list(range(20))


def test_a_shard_that_another_process_has_just_sealed_is_not_opened_again(batch, command: tuple[object, ...]):
    run_dir = Path(str(command[4]))
    assert batch(*command).code == 0
    assert Shard.try_open(run_dir / "shards" / "00000", packed=True) is None
    assert batch("verify", run_dir).code == 0
