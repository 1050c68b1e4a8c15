"""The audit command, with a scorer that needs no models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import StubScorer, read_lines, write_bundle, write_lines

from spectr_jobs.commands.audit import draw
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work import models as seam
from spectr_runtime import RequestError

Opened = Callable[..., StubScorer]


@pytest.fixture
def open_scorer(monkeypatch: pytest.MonkeyPatch) -> Opened:
    def open_(**options: Any) -> StubScorer:
        scorer = StubScorer(**options)
        monkeypatch.setattr(seam, "open_scorer", lambda bundle, how, *, date: scorer)
        return scorer

    return open_


@pytest.fixture
def run_dir(batch, bundle: Path, tmp_path: Path) -> Path:
    records: list[dict[str, Any]] = [{"id": f"row {n}", "prompt": f"Say {n}", "n": 1 + n % 3} for n in range(60)]
    body = {"messages": [{"role": "user", "content": "Hi"}], "n": 2}
    records.append({"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": body})
    records += [{"id": "silent", "prompt": "x", "return_token_ids": False}, {"id": "bad", "prompt": ""}]
    path = write_lines(tmp_path / "in.jsonl", records)
    batch("run", bundle, path, "-o", tmp_path / "run", "--shard-size", 9)
    return tmp_path / "run"


def test_a_sound_run_passes_and_leaves_its_figures(batch, run_dir: Path, open_scorer: Opened):
    scorer = open_scorer()
    result = batch("audit", run_dir)
    assert (result.code, result.out, result.decoder) == (0, "", None)
    rows = {str(row.get("id")): row for row in read_lines(run_dir / "output.jsonl")}
    figures = json.loads((run_dir / "audit.json").read_text())
    assert (figures["passed"], figures["rows"], figures["rows_with_token_ids"]) == (True, 61, 61)
    assert figures["tokens"] == sum(len(one.token_ids) for one in scorer.scored)
    written = [list(one.token_ids) for one in scorer.scored if one.request.id == "row 2"]
    assert written == [one["token_ids"] for one in rows["row 2"]["completions"]]
    assert json.loads((run_dir / "summary.json").read_text())["audit"] == figures
    batch("report", run_dir)
    assert "<b>passed</b>audit" in (run_dir / "report.html").read_text()
    lines = result.err.splitlines()
    count, distance = figures["tokens"], figures["statistics"]["probability"]["distance"]
    assert lines[:4] == [
        f"spectr-batch: scoring {count:,} tokens of 61 rows, onnxruntime on cpu",
        f"spectr-batch: {run_dir} passes",
        "  sample             61 of 61 rows, drawn with seed 0",
        f"  drawn tokens       {count:,}",
    ]
    assert lines[5].startswith(f"  probability        distance {distance:.4f}, allowed ")
    assert lines[7:] == [
        "  impossible tokens  none (logits within 0.001 count as equal)",
        "  false alarms       at most 1 audit in 1,000",
    ]


def test_a_biased_run_fails(batch, bundle: Path, run_dir: Path, open_scorer: Opened):
    open_scorer(biased=True)
    result = batch("audit", run_dir)
    assert result.code == 1
    assert f"spectr-batch: {run_dir} fails\n" in result.err
    assert result.err.count("FAILS") == 3
    figures = json.loads((run_dir / "audit.json").read_text())
    assert figures["p_value"] < 1e-9
    again = batch("run", bundle, run_dir.parent / "in.jsonl", "-o", run_dir, "--shard-size", 9).err
    told = f"failed, p = {figures['p_value']:.2g} over {figures['tokens']:,} tokens\n"
    assert f"  audit              {told}" in again


def test_a_sample_stops_at_its_tokens_and_depends_on_its_seed_alone(batch, run_dir: Path, open_scorer: Opened):
    def sample(*arguments: object) -> list[tuple[str, int, int]]:
        scorer = open_scorer()
        assert batch("audit", run_dir, "--tokens", 40, *arguments).code == 0
        return [(one.request.id, one.request.choice, len(one.token_ids)) for one in scorer.scored]

    first = sample()
    assert sum(size for _, _, size in first) == 40
    assert sample() == first
    assert sample("--seed", 1) != first


def test_every_row_is_drawn_equally_often_whatever_its_length(run_dir: Path):
    run = RunDirectory.open(run_dir)
    counts: dict[str, int] = {}
    for seed in range(400):
        first = draw(run, 1, seed)[0]
        assert len(first) == 1
        counts[first[0].key] = counts.get(first[0].key, 0) + 1
    assert len(counts) > 55
    assert max(counts.values()) < 25


def test_an_incomplete_run_can_be_audited(batch, bundle: Path, prompts: Path, tmp_path: Path, open_scorer: Opened):
    batch("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 5, "--rank", 1, "--world", 2, own_shards=True)
    open_scorer()
    assert "10 of 10 rows" in batch("audit", tmp_path / "run").err
    assert not (tmp_path / "run" / "summary.json").exists()


def test_compressed_rows_are_audited_alike(batch, bundle: Path, prompts: Path, tmp_path: Path, open_scorer: Opened):
    figures = []
    for name, options in (("plain", ()), ("packed", ("--compress", "zst"))):
        batch("run", bundle, prompts, "-o", tmp_path / name, "--shard-size", 5, *options)
        open_scorer()
        assert batch("audit", tmp_path / name).code == 0
        figures.append(json.loads((tmp_path / name / "audit.json").read_text()))
    assert figures[0]["rows"] == 20
    assert figures[0]["statistics"] == figures[1]["statistics"]


def test_rows_that_do_not_belong_to_the_bundle_are_an_error(
    batch, run_dir: Path, open_scorer: Opened, monkeypatch: pytest.MonkeyPatch
):
    def score(self: StubScorer, completions: object) -> object:
        raise RequestError("Row 'a' has token id 99; allowed are 8 tokens with ids from 0 to 15.")

    monkeypatch.setattr(StubScorer, "score", score)
    open_scorer()
    result = batch("audit", run_dir)
    assert result.code == 1
    assert result.err.endswith(
        "spectr-batch: error: Row 'a' has token id 99; allowed are 8 tokens with ids from 0 to 15. "
        "The rows are not those of this bundle and these inputs.\n"
    )


def test_what_cannot_be_audited_is_refused(batch, bundle: Path, run_dir: Path, tmp_path: Path, open_scorer: Opened):
    open_scorer()
    silent = write_lines(tmp_path / "silent.jsonl", [{"prompt": "x", "return_token_ids": False}])
    batch("run", bundle, silent, "-o", tmp_path / "silent")
    result = batch("audit", tmp_path / "silent")
    assert result.code == 2
    assert result.err == (
        f"spectr-batch: error: No row of {tmp_path}/silent holds its token ids. "
        "Decode records without `return_token_ids: false` first.\n"
    )
    bundle.rename(tmp_path / "moved")
    assert batch("audit", run_dir).code == 42
    assert batch("audit", run_dir, "--bundle", tmp_path / "moved").code == 0
    write_bundle(tmp_path / "moved", tag="other")
    assert batch("audit", run_dir, "--bundle", tmp_path / "moved").code == 42
    (tmp_path / "in.jsonl").write_text("{}\n")
    result = batch("audit", run_dir, "--bundle", tmp_path / "moved")
    assert (result.code, "is not the file that was decoded. Restore it first." in result.err) == (2, True)
