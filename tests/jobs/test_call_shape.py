"""The option ``--call-shape``: what it takes and refuses, and that it is a term of the run."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from jobs_stub import read_lines

from spectr_jobs.work import models as seam
from spectr_jobs.work.setup import Setup
from spectr_runtime import Bundle, Plan
from spectr_runtime.planning.footprint import Footprint

SHAPE = ("--call-shape", "3x17")


@pytest.fixture
def command(bundle: Path, prompts: Path, tmp_path: Path) -> tuple[object, ...]:
    return ("run", bundle, prompts, "-o", tmp_path / "run")


@pytest.mark.parametrize("value", ["0x5", "8x0", "8x", "x8", "axb", "8", "8x5x2", "-1x5", "8X5", "8 x 5", "8x5.0"])
def test_what_is_no_shape_is_refused(batch, command, value: str, tmp_path: Path):
    result = batch(*command, "--call-shape", value)
    assert result.code == 2
    assert (
        f"Invalid value for '--call-shape': got {value}, allowed is ROWSxTOKENS with numbers from 1 on, "
        "for instance 8x17\n"
    ) in result.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [("--batch-size", 8), ("--batch-size", 3)])
def test_it_excludes_a_batch_size(batch, command, given: tuple[object, ...]):
    result = batch(*command, *SHAPE, *given)
    assert (result.code, result.err) == (
        2,
        f"spectr-batch: error: --call-shape 3x17 and --batch-size {given[1]} exclude each other: the shape says how "
        "many rows are decoded together. Leave --batch-size out.\n",
    )


@pytest.mark.parametrize(
    ("plan", "shape", "error"),
    [
        (
            ("--drafts", 4, "--length", 4),
            "8x2",
            "--call-shape 8x2 has 2 tokens a row; allowed are 17 or more, for K=4 drafts of length L=4 and the last "
            "token of the text. Use --call-shape 8x17.",
        ),
        (
            ("--rule", "race", "--drafts", 1, "--length", 5),
            "2x5",
            "--call-shape 2x5 has 5 tokens a row; allowed are 6 or more, for K=1 drafts of length L=5 and the last "
            "token of the text. Use --call-shape 2x6.",
        ),
        (
            (),
            "8x16",
            "Calls of 16 tokens are too small for the plan race K=4 L=4: its tree has 17, the last token of the text "
            "among them. Use --call-shape ROWSx17, or call_tokens=17 in Python.",
        ),
    ],
)
@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_a_tree_that_does_not_fit_is_refused(
    batch, command, tmp_path: Path, plan: tuple[object, ...], shape: str, error: str, dry: tuple[str, ...]
):
    result = batch(*command, *plan, "--call-shape", shape, *dry)
    assert (result.code, result.err) == (2, f"spectr-batch: error: {error}\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("plan", "tokens"),
    [(Plan("kseq", 4, 4), 17), (Plan("race", 1, 5), 6), (Plan("single", 1, 1), 2), (Plan("race", 2, 8, "texts"), 17)],
    ids=str,
)
def test_the_command_line_knows_the_size_of_trees(plan: Plan, tokens: int):
    assert plan.tree.size == plan.drafts * plan.length + 1 == tokens


def test_a_plain_run_takes_calls_of_one_token(batch, command):
    assert batch(*command, "--plan", "plain", "--call-shape", "3x1").decoder.call_shape == "3x1"


def test_the_run_decodes_with_it_and_measures_no_batch_size(batch, command, chosen: list[object], tmp_path: Path):
    result = batch(*command, *SHAPE)
    assert result.code == 0
    assert (result.decoder.batch_size, result.decoder.call_shape) == (3, "3x17")
    assert chosen == []
    assert "spectr-batch: decoding 20 records: auto, call shape 3x17, onnxruntime on cpu" in result.err.splitlines()
    assert json.loads((tmp_path / "run" / "summary.json").read_bytes())["call_shape"] == "3x17"
    start = next(event for event in read_lines(tmp_path / "run" / "events.jsonl") if event["event"] == "start")
    assert (start["batch_size"], start["call_tokens"]) == (3, 17)


def test_a_run_without_it_is_as_before(batch, command, tmp_path: Path):
    assert batch(*command).decoder.call_shape is None
    summary = json.loads((tmp_path / "run" / "summary.json").read_bytes())
    assert summary["call_shape"] is None
    assert "call_tokens" not in summary["sessions"][0]


def test_it_is_a_term_of_the_run(batch, command, tmp_path: Path):
    stopped = batch(*command, *SHAPE, "--shard-size", 5, "--rank", 0, "--world", 2, own_shards=True)
    assert stopped.code == 0
    again = ("--shard-size", 5, "--rank", 1, "--world", 2)
    for other, words in (((), "None"), (("--call-shape", "3x18"), "3x18"), (("--batch-size", 3), "None")):
        result = batch(*command, *other, *again)
        assert result.code == 2
        assert result.err.endswith(
            f"error: The run directory was started with other values: --call-shape was 3x17, now it is {words}. Use "
            "the values that it was started with, or take a new run directory.\n"
        )
        assert batch(*command, *other, "--shard-size", 5, "--dry-run").code == 2
    assert batch(*command, *SHAPE, *again).code == 0
    assert len(read_lines(tmp_path / "run" / "output.jsonl")) == 20


def test_a_run_that_was_begun_without_it_cannot_get_it_later(batch, command):
    assert batch(*command).code == 0
    result = batch(*command, *SHAPE)
    assert (result.code, "--call-shape was None, now it is 3x17." in result.err) == (2, True)


def test_a_run_directory_that_does_not_know_it_is_one_without(batch, command, tmp_path: Path):
    assert batch(*command).code == 0
    path = tmp_path / "run" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    assert manifest["terms"].pop("call_shape", "missing") is None
    path.write_text(json.dumps(manifest))
    assert batch(*command).code == 0
    assert batch("verify", tmp_path / "run").code == 0


def test_a_replay_has_the_shape_of_the_run(batch, command, tmp_path: Path):
    batch(*command, *SHAPE)
    result = batch("replay", tmp_path / "run", "--id", "row-3")
    assert (result.code, result.err) == (0, "spectr-batch: row-3: the same row\n")
    assert (result.decoder.batch_size, result.decoder.call_shape, result.decoder.plan) == (3, "3x17", Plan.plain())


def test_the_report_shows_it(batch, command, tmp_path: Path):
    for options, shown in (((), False), (SHAPE, True)):
        folder = tmp_path / f"run-{shown}"
        batch(*command[:-1], folder, *options)
        assert batch("report", folder).code == 0
        page = (folder / "report.html").read_text(encoding="utf-8")
        assert ("call shape 3x17" in page) == shown
        assert re.search(r"seed 0 · (call shape 3x17 · )?bundle", page)


class Letters:
    """A tokenizer with one token per letter."""

    def encode(self, prompt: str, most: int) -> tuple[int, ...]:
        return tuple(prompt.encode())


def test_a_dry_run_counts_rows_of_the_whole_capacity(batch, command, monkeypatch: pytest.MonkeyPatch):
    asked: list[tuple[str | None, int]] = []

    def footprint(bundle: Bundle, setup: Setup, longest: int) -> Footprint:
        asked.append((setup.call_shape, longest))
        return Footprint(2_000_000, 64, 500, 10_000)

    monkeypatch.setattr(seam, "open_tokenizer", lambda bundle, *, date: Letters())
    monkeypatch.setattr(seam, "footprint", footprint)
    for free in (10_000_000, 2_050_000):
        monkeypatch.setattr(seam, "free_memory", lambda device, free=free: free)
        result = batch(*command, *SHAPE, "--dry-run")
        if free > 3_000_000:
            assert result.code == 0
            assert "dry run, nothing is written: auto, call shape 3x17, onnxruntime on cpu" in result.err
        else:
            assert result.code == 2
            assert "error: --call-shape 3x17 needs 2.16 MB of memory on cpu" in result.err
    assert asked == [("3x17", 64)] * 2  # the capacity of the bundle


def test_it_can_be_given_in_a_file_or_a_variable_and_shown(batch, command, tmp_path: Path, monkeypatch):
    (tmp_path / "spectr.toml").write_text('[run]\ncall-shape = "3x17"\n')
    result = batch(*command, "--config", tmp_path / "spectr.toml")
    assert result.decoder.call_shape == "3x17"
    monkeypatch.setenv("SPECTR_CALL_SHAPE", "2x20")
    shown = batch(*command, "--print-config").out
    assert 'call-shape = "2x20"  # environment' in shown


def test_a_job_of_a_queue_is_refused_as_the_run_would_be(batch, tmp_path: Path):
    job = ("submit", "slurm", "--ranks", 2, "--time", "1h", "--to", tmp_path / "job.sbatch", "--")
    run = ("bundle", "in.jsonl", "-o", "run", "--drafts", 4)
    assert "Use --call-shape 8x33." in batch(*job, *run, "--call-shape", "8x9").err
    assert not (tmp_path / "job.sbatch").exists()
    assert batch(*job, *run, "--call-shape", "8x33").code == 0
    assert "--call-shape 8x33" in (tmp_path / "job.sbatch").read_text(encoding="utf-8")


def test_the_setup_of_a_session_is_read_as_it_was_written():
    for setup in (Setup(Plan("race", 2, 4), 3, "torch", "cpu", call_tokens=9), Setup("auto", 3, "torch", "cpu")):
        assert Setup.from_json(json.loads(json.dumps(setup.to_json()))) == setup
