"""Records that ask for more than one completion, from the input to the merged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import StubDecoder, read_lines, write_lines

from spectr_runtime import EngineError


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    records: list[dict[str, Any]] = [{"id": n, "prompt": f"Say {n}", "n": 1 + n % 4} for n in range(12)]
    records += [{"id": "pair", "prompt": ["a", "b"], "n": 2}, {"id": "half", "prompt": "a", "n": 3}]
    return write_lines(tmp_path / "in.jsonl", records)


def files(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "output.jsonl").read_bytes(), (folder / "errors.jsonl").read_bytes()


def test_a_row_holds_all_completions_of_its_record(batch, bundle: Path, inputs: Path, tmp_path: Path):
    assert batch("run", bundle, inputs, "-o", tmp_path / "run").code == 3
    rows = {row["id"]: row for row in read_lines(tmp_path / "run" / "output.jsonl")}
    assert ["completions" in row for row in rows.values()] == [n % 4 > 0 for n in range(12)] + [True]
    texts = [one["text"] for one in rows["pair"]["completions"]]
    assert len(set(texts)) == 4
    assert rows["pair"]["usage"]["prompt_tokens"] == 2
    (error,) = read_lines(tmp_path / "run" / "errors.jsonl")
    assert error["error"]["message"] == "in.jsonl:14, completion 1: The prompt is too long."
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["rows"], summary["failed"]) == (13, 1)


@pytest.mark.parametrize("batch_size", [1, 3, 40])
def test_rows_do_not_depend_on_the_batch(batch, bundle: Path, inputs: Path, tmp_path: Path, batch_size: int):
    batch("run", bundle, inputs, "-o", tmp_path / "run")
    batch("run", bundle, inputs, "-o", tmp_path / "again", "--batch-size", batch_size, "--shard-size", 3)
    assert files(tmp_path / "again") == files(tmp_path / "run")


@pytest.mark.parametrize("finished", [1, 4, 9, 20])
def test_an_interruption_between_two_completions_loses_and_doubles_nothing(
    batch, bundle: Path, inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: int
):
    batch("run", bundle, inputs, "-o", tmp_path / "whole")
    real, left = StubDecoder._outcome, iter(range(finished))

    def outcome(self: StubDecoder, request: Any) -> Any:
        if next(left, None) is None:
            raise EngineError("The device is gone.")
        return real(self, request)

    monkeypatch.setattr(StubDecoder, "_outcome", outcome)
    assert batch("run", bundle, inputs, "-o", tmp_path / "run").code == 1
    monkeypatch.setattr(StubDecoder, "_outcome", real)
    assert batch("run", bundle, inputs, "-o", tmp_path / "run").code == 3
    assert files(tmp_path / "run") == files(tmp_path / "whole")
    assert batch("verify", tmp_path / "run").code == 0
