"""A run chooses its batch size with the models of a bundle, and writes the rows of every other size."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from tensorrt_gpu import put_engines, run_engines

from spectr_jobs.cli import main as batch
from spectr_jobs.run_directory.sessions import read_facts
from spectr_runtime import Bundle

RECORDS = 24


def spectr_batch(*arguments: object) -> int:
    return batch.call([str(argument) for argument in arguments])


def rows_of(run_dir: Path) -> list[dict[str, Any]]:
    """The rows but for what was drafted, which ``auto`` chooses by the clock."""
    rows = [json.loads(line) for line in (run_dir / "output.jsonl").read_bytes().splitlines()]
    return [{name: value for name, value in row.items() if name != "speculation"} for row in rows]


@pytest.fixture
def records(tmp_path: Path) -> Path:
    path = tmp_path / "in.jsonl"
    lines = ({"id": n, "prompt": f"Say {'so ' * (n % 5)}{n}", "max_tokens": 2 + n % 7} for n in range(RECORDS))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_rows_are_those_of_given_sizes_and_of_workers(
    bundle_path: Path,
    records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def rows(name: str, *options: object) -> list[dict[str, Any]]:
        assert spectr_batch("run", bundle_path, records, "-o", tmp_path / name, "--shard-size", 6, *options) == 0
        return rows_of(tmp_path / name)

    assert spectr_batch("run", bundle_path, records, "-o", tmp_path / "auto", "--dry-run") == 0
    told = re.search(r"^  batch size +(\d+): (.*)$", capsys.readouterr().err, re.MULTILINE)
    assert told is not None
    size, reason = told.groups()
    assert 1 <= int(size) <= RECORDS
    chosen = rows("auto")
    said = re.findall(r"batch size (\d+): (.*)$", capsys.readouterr().err, re.MULTILINE)
    (facts,) = read_facts(tmp_path / "auto" / "sessions")
    assert [(str(facts["batch_size"]), facts["batch_size_reason"])] == [(size, f"batch size {size}: {said[0][1]}")]
    assert said[0][0] == size, f"what was measured was kept: {reason}"
    assert chosen == rows("one", "--batch-size", 1) == rows("eight", "--batch-size", 8)
    for rank in (1, 0):
        spectr_batch(
            "run", bundle_path, records, "-o", tmp_path / "two", "--shard-size", 6, "--rank", rank, "--world", 2
        )
    assert rows_of(tmp_path / "two") == chosen
    assert spectr_batch("replay", tmp_path / "auto", "--id", 7) == 0
    assert spectr_batch("audit", tmp_path / "auto") == 0


def test_without_memory_for_a_row_nothing_is_decoded(
    bundle_path: Path,
    records: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("spectr_runtime.planning.fitting.free_memory", lambda device: 1000)
    assert spectr_batch("run", bundle_path, records, "-o", tmp_path / "run") == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("spectr-batch: error: Not one row fits into the memory of cpu: it needs ")
    assert "; there is 1 kB. Free memory, or build the bundle with a smaller --capacity" in said


def test_a_run_opens_the_compiled_engines_that_hold_its_texts(
    bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A byte is a token, and the largest tree has 17: texts of up to 47 tokens fit into 64 slots, these need 128."""
    records = tmp_path / "in.jsonl"
    lines = ({"id": n, "prompt": f"Say {'so ' * n}", "max_tokens": 2 + n % 7} for n in range(RECORDS))
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    bundle = Bundle.open(shutil.copytree(bundle_path, tmp_path / "bundle"))
    plans = put_engines(bundle, (64, 128, 192), rows=RECORDS, tree_tokens=17)
    double = run_engines(plans, monkeypatch)

    def rows(name: str, *options: object) -> list[dict[str, Any]]:
        assert spectr_batch("run", bundle.path, records, "-o", tmp_path / name, *options) == 0
        return rows_of(tmp_path / name)

    def opened() -> list[int]:
        found = [plans[plan].compiled.capacity for (plan,) in double.arguments("Runtime.deserialize_cuda_engine")]
        double.calls.clear()
        return found

    expected = rows("torch", "--backend", "torch", "--batch-size", 3)
    backend = ("--backend", "tensorrt-rtx", "--device", "cpu")
    assert rows("known", *backend) == expected
    assert set(opened()) == {128}
    assert rows("unknown", *backend, "--batch-size", 3) == expected
    assert opened() == [64, 64, 128, 128]
    assert spectr_batch("audit", tmp_path / "known") == 0
    assert opened() == [64, 64, 128, 128]
    capsys.readouterr()
    assert spectr_batch("run", bundle.path, records, "-o", tmp_path / "dry", *backend, "--dry-run") == 0
    assert re.search(r"caches .* \(\d+ rows of 128 slots", capsys.readouterr().err)
    assert set(opened()) == {128}
