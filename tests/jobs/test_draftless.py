"""Bundles without a draft: drafts are looked up, a command says so, and a plan that needs a draft is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jobs_stub import StubScorer, read_lines, write_bundle, write_lines

from spectr_jobs.work import models as seam
from spectr_jobs.work.setup import Setup
from spectr_runtime import Bundle, Plan, SpeculationStats
from spectr_runtime.planning.footprint import Footprint
from spectr_runtime.speculation.plan import AUTO

NO_DRAFT = (
    "spectr-batch: the bundle has no draft: drafts are looked up in the row's own text and in rows that were finished "
    "before"
)


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "plain", roles=("target",))


@pytest.fixture
def undrafted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The stub counts as plain decoding does."""
    monkeypatch.setattr("jobs_stub.SpeculationStats", lambda rounds, *_: SpeculationStats(rounds, ()))


def plans(run: Path) -> list[str]:
    return [read_lines(path)[0]["plan"] for path in sorted((run / "sessions").iterdir())]


@pytest.mark.parametrize("options", [(), ("--plan", "auto")], ids=" ".join)
def test_the_automatic_plan_looks_drafts_up_and_says_so_in_one_line(
    batch, plain: Path, prompts: Path, tmp_path: Path, options: tuple[str, ...]
):
    result = batch("run", plain, prompts, "-o", tmp_path / "run", *options)
    assert (result.code, result.err.splitlines().count(NO_DRAFT)) == (0, 1)
    assert "spectr-batch: decoding 20 records: auto, batch 8, onnxruntime on cpu" in result.err.splitlines()
    assert plans(tmp_path / "run") == ["auto"]


@pytest.mark.parametrize("source", ["lookup", "corpus", "texts"])
def test_a_plan_that_looks_drafts_up_needs_no_draft(batch, plain: Path, prompts: Path, tmp_path: Path, source: str):
    result = batch("run", plain, prompts, "-o", tmp_path / "run", "--source", source)
    assert (result.code, NO_DRAFT in result.err) == (0, False)
    assert plans(tmp_path / "run") == [f"race K=1 L=8 {source}"]


@pytest.mark.usefixtures("undrafted")
def test_plain_decoding_says_nothing_of_drafts(batch, plain: Path, prompts: Path, tmp_path: Path):
    result = batch("run", plain, prompts, "-o", tmp_path / "run", "--plan", "plain", plans=[Plan.plain()])
    assert (result.code, NO_DRAFT in result.err) == (0, False)
    assert "spectr-batch: decoding 20 records: plain, batch 8, onnxruntime on cpu" in result.err.splitlines()
    assert plans(tmp_path / "run") == ["plain"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["plan"], summary["plans"], summary["acceptance_by_depth"]) == ("plain", {"plain": 40}, [])
    assert summary["sources"] == {}
    assert all(name not in result.err for name in ("accepted by depth", "plans", "drafts of"))


def test_a_bundle_with_a_draft_says_nothing_of_it(batch, bundle: Path, prompts: Path, tmp_path: Path):
    assert NO_DRAFT not in batch("run", bundle, prompts, "-o", tmp_path / "run").err


@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize("output", ["run", "-"])
def test_a_plan_that_drafts_is_refused_and_leaves_nothing(
    batch, plain: Path, prompts: Path, tmp_path: Path, output: str, more: tuple[str, ...]
):
    before = sorted(tmp_path.iterdir())
    where = output if output == "-" else tmp_path / output
    result = batch("run", plain, prompts, "-o", where, "--rule", "kseq", *more)
    assert (result.code, result.out, result.decoder) == (2, "", None)
    assert result.err == (
        "spectr-batch: error: The plan is kseq K=2 L=8, and the bundle has no draft. Use --plan auto or plain, "
        "--source lookup, or build a bundle with a draft: `spectr-export build TARGET --draft DRAFT`.\n"
    )
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("options", [("--drafts", 2), ("--length", 2), ("--rule", "race")], ids=str)
def test_every_option_of_a_fixed_plan_is_refused(batch, plain: Path, prompts: Path, tmp_path: Path, options):
    result = batch("run", plain, prompts, "-o", tmp_path / "run", *options)
    assert (result.code, "and the bundle has no draft" in result.err) == (2, True)


def test_an_interrupted_run_goes_on(batch, plain: Path, prompts: Path, tmp_path: Path):
    batch("run", plain, prompts, "-o", tmp_path / "whole")
    command = ("run", plain, prompts, "-o", tmp_path / "run", "--shard-size", 7)
    batch(*command, "--rank", 0, "--world", 2, own_shards=True)
    assert batch(*command, "--plan", "plain").code == 0
    assert plans(tmp_path / "run") == ["auto", "plain"]
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == (tmp_path / "whole" / "output.jsonl").read_bytes()


def test_a_dry_run_plans_the_memory_of_the_automatic_plan(
    batch, plain: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: list[object] = []

    def footprint(bundle: Bundle, setup: Setup, longest: int) -> Footprint:
        asked.append(setup.plan)
        return Footprint(2_000_000, 64, 500, 10_000)

    class Letters:
        def encode(self, prompt: str, most: int) -> tuple[int, ...]:
            return tuple(prompt.encode())

    monkeypatch.setattr(seam, "footprint", footprint)
    monkeypatch.setattr(seam, "open_tokenizer", lambda bundle, *, date: Letters())
    result = batch("run", plain, prompts, "-o", tmp_path / "run", "--dry-run")
    assert (result.code, asked) == (0, [AUTO])
    lines = result.err.splitlines()
    assert lines.count(NO_DRAFT) == 1
    assert "spectr-batch: dry run, nothing is written: auto, batch 8, onnxruntime on cpu" in lines
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("undrafted")
def test_replay_and_report_show_a_plain_run(batch, plain: Path, prompts: Path, tmp_path: Path):
    run = tmp_path / "run"
    batch("run", plain, prompts, "-o", run, "--plan", "plain")
    result = batch("replay", run, "--id", "row-3")
    assert (result.code, result.err) == (0, "spectr-batch: row-3: the same row\n")
    assert batch("report", run).code == 0
    page = (run / "report.html").read_text()
    assert "complete · plain · seed 0" in page
    assert "Tokens per second over time" in page
    assert all(name not in page for name in ("Drafts accepted by depth", "Block efficiency over time", "Drafts by"))


@pytest.mark.parametrize("biased", [False, True])
def test_an_audit_tests_what_needs_no_draft(
    batch, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, biased: bool
):
    records = write_lines(tmp_path / "in.jsonl", [{"id": n, "prompt": f"Say {n}"} for n in range(60)])
    batch("run", plain, records, "-o", tmp_path / "run")
    scorer = StubScorer(biased=biased, drafted=False)
    monkeypatch.setattr(seam, "open_scorer", lambda bundle, setup, *, date: scorer)
    result = batch("audit", tmp_path / "run")
    assert result.code == biased
    assert "draft" not in result.err
    figures = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert [*figures["statistics"]] == ["probability", "first tokens"]
    assert figures["tokens"] == sum(len(one.token_ids) for one in scorer.scored)


def test_a_job_of_ray_is_refused_before_there_is_a_cluster(batch, plain: Path, prompts: Path, tmp_path: Path):
    result = batch("submit", "ray", "--ranks", 2, "--", plain, prompts, "-o", tmp_path / "run", "--rule", "kseq")
    assert (result.code, "and the bundle has no draft" in result.err) == (2, True)
    assert not (tmp_path / "run").exists()
