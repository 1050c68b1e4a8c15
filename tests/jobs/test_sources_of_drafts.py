"""Sources of drafts on the command line: ``--source`` and ``--corpus``, and what is told of what they did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import read_lines, write_lines

from spectr_jobs.cli.options import ONE_PATH
from spectr_jobs.report import page as module
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work import models as seam
from spectr_jobs.work.setup import Setup
from spectr_runtime import Plan, SpeculationStats
from spectr_runtime.rows.drafting import SourceStats
from spectr_select import RULES


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "texts.jsonl", ["Say it again.", {"text": "Say it once more."}])


def facts(run: Path) -> dict[str, Any]:
    (session,) = (run / "sessions").iterdir()
    return read_lines(session)[0]


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        (("--source", "lookup"), "race K=1 L=8 lookup"),
        (("--source", "corpus", "--drafts", 1, "--length", 16), "race K=1 L=16 corpus"),
        (("--source", "texts", "--rule", "race"), "race K=1 L=8 texts"),
        (("--source", "lookup", "--rule", "block"), "block K=1 L=8 lookup"),
        (("--source", "draft"), "block K=1 L=8"),
        (("--length", 4), "block K=1 L=4"),
        (("--drafts", 4), "kseq K=4 L=8"),
        (("--rule", "kseq"), "kseq K=2 L=8"),
        (("--rule", "single", "--length", 2), "single K=1 L=2"),
        (("--source", "draft", "--rule", "race"), "race K=1 L=8"),
    ],
)
def test_a_source_makes_a_fixed_plan(
    batch, bundle: Path, prompts: Path, tmp_path: Path, options: tuple[Any, ...], plan: str
):
    assert batch("run", bundle, prompts, "-o", tmp_path / "run", *options).code == 0
    found = facts(tmp_path / "run")
    assert found["plan"] == plan
    assert found["source"] == (options[1] if "--source" in options else "draft")
    assert "corpus" not in found
    assert str(Setup.from_json(found).plan) == plan


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--source", "wiki"),
            "Invalid value for '--source': 'wiki' is not one of 'draft', 'lookup', 'corpus', 'texts'.",
        ),
        (
            ("--source", "lookup", "--plan", "auto"),
            "--plan auto and --source exclude each other. Leave one of them out.",
        ),
        (("--source", "lookup", "--rule", "kseq"), "Rule kseq with K=2 takes no drafts from lookup;"),
        (("--source", "texts", "--rule", "single", "--drafts", 1), "Rule single takes no drafts from texts:"),
        (
            ("--corpus", "x", "--plan", "plain"),
            "error: --corpus x: --plan plain looks in no corpus. Use --plan auto, --source corpus or --source texts, "
            "or leave it out.",
        ),
        (
            ("--corpus", "x", "--source", "lookup", "--length", 2),
            "error: --corpus x: a plan of --length, --source with the source lookup looks in no corpus.",
        ),
        (("--corpus", "x", "--rule", "race"), "error: --corpus x: a plan of --rule with the source draft looks in no"),
    ],
)
def test_what_does_not_go_together_is_refused(
    batch, bundle: Path, prompts: Path, tmp_path: Path, options: tuple[Any, ...], message: str
):
    result = batch("run", bundle, prompts, "-o", tmp_path / "run", *options)
    assert (result.code, result.decoder, (tmp_path / "run").exists()) == (2, None, False)
    assert message in result.err


@pytest.mark.parametrize("more", [(), ("--dry-run",)], ids=["run", "dry run"])
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("none.jsonl", None, "cannot be read: No such file or directory; allowed is a file."),
        ("bad.jsonl", b'"good"\n{"prompt": "no text"}\n', "line 2: an object without a text;"),
        ("bad.txt", b"one\n\xff", "line 2: byte 0xff is not UTF-8 there;"),
    ],
)
def test_a_corpus_that_cannot_be_read_ends_the_command_before_anything_is_written(
    batch,
    bundle: Path,
    prompts: Path,
    tmp_path: Path,
    name: str,
    content: bytes | None,
    words: str,
    more: tuple[str, ...],
):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    result = batch("run", bundle, prompts, "-o", tmp_path / "run", "--corpus", tmp_path / name, *more)
    assert (result.code, result.decoder, (tmp_path / "run").exists()) == (2, None, False)
    assert f"error: The corpus {tmp_path / name}" in result.err
    assert words in result.err


@pytest.mark.parametrize("options", [(), ("--plan", "auto"), ("--source", "corpus"), ("--source", "texts")], ids=str)
def test_a_corpus_reaches_the_decoder_and_the_facts_of_the_session(
    batch, bundle: Path, prompts: Path, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: Any
):
    result = batch("run", bundle, prompts, "-o", tmp_path / "run", "--corpus", corpus, *options)
    assert result.code == 0
    found = facts(tmp_path / "run")
    assert found["corpus"] == str(corpus)
    assert Setup.from_json(found).corpus is None, "no row depends on it, and it may be gone"
    corpus.unlink()
    assert batch("replay", tmp_path / "run", "--id", "row-3").code == 0


def test_a_run_may_go_on_with_another_corpus(batch, bundle: Path, prompts: Path, corpus: Path, tmp_path: Path):
    command = ("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 7)
    batch(*command, "--rank", 0, "--world", 2, own_shards=True)
    assert batch(*command, "--corpus", corpus).code == 0
    assert batch("verify", tmp_path / "run").code == 0


def test_the_corpus_opens_with_the_decoder(bundle: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch):
    given: dict[str, Any] = {}
    monkeypatch.setattr("spectr_runtime.decoder.Decoder", lambda bundle, **arguments: given.update(arguments))
    setup = Setup("auto", 4, "onnxruntime", "cpu", corpus=corpus)
    seam.open_decoder(bundle, setup, seed=0, date=None)  # type: ignore[arg-type]
    assert given["corpus"] == corpus


def test_a_job_of_a_queue_carries_the_corpus(batch, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    job = ("submit", "slurm", "--ranks", 2, "--time", "1h", "--to", "job")
    command = ("--", "bundle", "in.jsonl", "-o", "run", "--corpus")
    result = batch(*job, *command, "texts.jsonl")
    assert (result.code, "there is no texts.jsonl here" in result.err) == (0, False)
    assert "--corpus texts.jsonl" in (tmp_path / "job").read_text()
    (tmp_path / "job").unlink()
    assert "warning: there is no none.jsonl here; the machines of the queue" in batch(*job, *command, "none.jsonl").err
    refused = batch(*job, *command, "texts.jsonl", "--plan", "plain")
    assert (refused.code, "looks in no corpus" in refused.err) == (2, True)


def drafted(monkeypatch: pytest.MonkeyPatch, **sources: SourceStats) -> None:
    monkeypatch.setattr(
        "jobs_stub.SpeculationStats", lambda rounds, depths, _: SpeculationStats(rounds, depths, sources)
    )


def test_every_row_and_the_summary_tell_what_each_source_did(
    batch, bundle: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drafted(monkeypatch, corpus=SourceStats(1, 5, 2), draft=SourceStats(1, 4, 1), lookup=SourceStats(2, 8, 6))
    run = tmp_path / "run"
    result = batch("run", bundle, prompts, "-o", run)
    for row in read_lines(run / "output.jsonl"):
        assert row["speculation"]["sources"]["lookup"] == {"rounds": 2, "proposed": 8, "accepted": 6}
    assert json.loads((run / "summary.json").read_text())["sources"] == {
        "draft": {"rounds": 20, "proposed": 80, "accepted": 20, "seconds": 0.0},
        "lookup": {"rounds": 40, "proposed": 160, "accepted": 120},
        "corpus": {"rounds": 20, "proposed": 100, "accepted": 40},
        "texts": {"rounds": 60, "proposed": 260, "accepted": 160, "seconds": 0.0},
    }
    for line in (
        "  drafts of draft    20 of 80 accepted (25%), 0.0 s",
        "  drafts of lookup   120 of 160 accepted (75%)",
        "  drafts of corpus   40 of 100 accepted (40%)",
        "  drafts of texts    160 of 260 accepted (62%), 0.0 s",
    ):
        assert line in result.err.splitlines()
    page = module.page(RunDirectory.open(run))
    assert "<h2>Drafts by source</h2>" in page
    assert "<tr><td>lookup</td><td>40</td><td>120 of 160 accepted (75%)</td><td>-</td></tr>" in page
    assert "<tr><td>texts</td><td>60</td><td>160 of 260 accepted (62%)</td><td>0.0 s</td></tr>" in page


def test_what_was_looked_up_in_one_place_only_is_told_once(
    batch, bundle: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    drafted(monkeypatch, lookup=SourceStats(2, 8, 6))
    result = batch("run", bundle, prompts, "-o", tmp_path / "run")
    assert "  drafts of lookup   120 of 160 accepted (75%), 0.0 s" in result.err.splitlines()
    assert "drafts of texts" not in result.err


def test_the_seconds_of_a_source_are_those_of_its_stage(
    batch, bundle: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = tmp_path / "run"
    batch("run", bundle, prompts, "-o", run, plans=[Plan("race", 1, 4)])
    (session,) = (run / "sessions").iterdir()
    events = read_lines(session)
    events[-1]["timing"] |= {"draft": 1.5, "lookup": 0.25}
    write_lines(session, events)
    drafted_by = module.summary.summarize(RunDirectory.open(run))["sources"]
    assert drafted_by == {"draft": {"rounds": 40, "proposed": 160, "accepted": 60, "seconds": 1.5}}


def test_a_rule_that_takes_one_path_is_given_one():
    assert {name for name, rule in RULES.items() if rule.trees == "chain"} < set(ONE_PATH)
