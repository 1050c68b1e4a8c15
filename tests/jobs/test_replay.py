from __future__ import annotations

import json
from pathlib import Path

import pytest
from jobs_stub import StubDecoder, read_lines, write_bundle, write_lines


@pytest.fixture
def run_dir(batch, bundle: Path, tmp_path: Path) -> Path:
    records = [{"id": one, "prompt": f"Say {one}"} for one in (*range(9), "long")] + [{"id": "bad", "prompt": ""}]
    records += [{"id": one, "prompt": ["a", "b"], "n": 3} for one in ("many", "half")]
    path = write_lines(tmp_path / "in.jsonl", records)
    batch("run", bundle, path, "-o", tmp_path / "run", "--shard-size", 4, "--seed", 5)
    return tmp_path / "run"


@pytest.mark.parametrize("key", ["0", "7", "long", "bad", "many", "half"])
def test_a_row_decoded_alone_is_the_row_of_the_run(batch, run_dir: Path, key: str):
    result = batch("replay", run_dir, "--id", key)
    assert (result.code, result.err) == (0, f"spectr-batch: {key}: the same row\n")
    row = json.loads(result.out)
    assert row in read_lines(run_dir / "output.jsonl") + read_lines(run_dir / "errors.jsonl")
    assert result.decoder is None or (result.decoder.batch_size, result.decoder.most_waiting) == (1, 1)


def test_another_row_is_shown_with_its_first_difference(batch, run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    real = StubDecoder._outcome
    kept = read_lines(run_dir / "output.jsonl")[3]["text"]

    def outcome(self, request):
        import dataclasses

        return dataclasses.replace(real(self, request), text="other")

    monkeypatch.setattr(StubDecoder, "_outcome", outcome)
    result = batch("replay", run_dir, "--id", "3")
    assert result.code == 1
    assert result.err == f"spectr-batch: 3: another row; text was {kept!r}, now it is 'other'\n"


def test_an_unknown_id_is_refused(batch, run_dir: Path):
    result = batch("replay", run_dir, "--id", "none")
    assert (result.code, "No record of" in result.err) == (2, True)


def test_a_record_without_a_row_is_refused(batch, bundle: Path, prompts: Path, tmp_path: Path):
    batch("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 5, "--rank", 0, "--world", 2)
    result = batch("replay", tmp_path / "run", "--id", "row-5")
    assert (result.code, "has no row in" in result.err) == (2, True)


def test_the_bundle_may_have_moved_but_must_be_the_same(batch, run_dir: Path, bundle: Path, tmp_path: Path):
    bundle.rename(tmp_path / "moved")
    assert batch("replay", run_dir, "--id", "3").code == 42
    assert batch("replay", run_dir, "--id", "3", "--bundle", tmp_path / "moved").code == 0
    write_bundle(tmp_path / "moved", tag="other")
    result = batch("replay", run_dir, "--id", "3", "--bundle", tmp_path / "moved")
    assert (result.code, "is not the bundle of" in result.err) == (42, True)
