from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import StubDecoder, read_lines, write_bundle, write_lines

from spectr_jobs.commands.replay import _alone, _drafts_again
from spectr_jobs.records.record import parse
from spectr_jobs.work.setup import Setup
from spectr_runtime import Plan, SamplingParams, SpeculationStats, TokenLogprob
from spectr_runtime.speculation.plan import PlanChoice


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


def test_what_was_drafted_does_not_matter_to_a_row_of_the_automatic_plan(batch, run_dir: Path, monkeypatch):
    replayed_with(monkeypatch, speculation=lambda made: SpeculationStats(rounds=9, accepted_at_depth=()))
    assert batch("replay", run_dir, "--id", "3").code == 0
    assert json.loads(next((run_dir / "sessions").iterdir()).read_text().splitlines()[0])["plan"] == "auto"


def test_what_was_drafted_belongs_to_a_row_of_a_fixed_plan(
    batch, bundle: Path, prompts: Path, tmp_path: Path, monkeypatch
):
    batch("run", bundle, prompts, "-o", tmp_path / "run", "--rule", "kseq")
    assert batch("replay", tmp_path / "run", "--id", "row-3").code == 0
    replayed_with(monkeypatch, speculation=lambda made: SpeculationStats(rounds=9, accepted_at_depth=()))
    result = batch("replay", tmp_path / "run", "--id", "row-3")
    assert result.err == "spectr-batch: row-3: another row; speculation.rounds was 2, now it is 9\n"


def test_a_run_that_was_begun_before_sources_were_counted_has_the_same_rows(
    batch, bundle: Path, prompts: Path, tmp_path: Path, monkeypatch
):
    with monkeypatch.context() as patch:
        replayed_with(patch, speculation=lambda made: dataclasses.replace(made.speculation, sources={}))
        batch("run", bundle, prompts, "-o", tmp_path / "run", "--rule", "kseq")
    assert "sources" not in read_lines(tmp_path / "run/output.jsonl")[3]["speculation"]
    result = batch("replay", tmp_path / "run", "--id", "row-3")
    assert (result.code, result.err) == (0, "spectr-batch: row-3: the same row\n")
    assert "sources" in json.loads(result.out)["speculation"]


def test_another_row_is_shown_with_its_first_difference(batch, run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    kept = read_lines(run_dir / "output.jsonl")[3]["text"]
    replayed_with(monkeypatch, text=lambda made: "other")
    result = batch("replay", run_dir, "--id", "3")
    assert result.code == 1
    assert result.err == f"spectr-batch: 3: another row; text was {kept!r}, now it is 'other'\n"


def replayed_with(monkeypatch: pytest.MonkeyPatch, **changes) -> None:
    """Makes the decoder write something else from now on."""
    real = StubDecoder._outcome

    def outcome(self, request):
        made = real(self, request)
        return dataclasses.replace(made, **{name: change(made) for name, change in changes.items()})

    monkeypatch.setattr(StubDecoder, "_outcome", outcome)


def test_log_probabilities_may_differ_in_their_last_bits(batch, bundle: Path, tmp_path: Path, monkeypatch):
    def scored(by: float):
        return lambda made: tuple(TokenLogprob(token, "x", b"x", -1.0 + by) for token in made.token_ids)

    path = write_lines(tmp_path / "in.jsonl", [{"id": "a", "prompt": "x", "n": 2, "logprobs": 0}])
    with monkeypatch.context() as patch:
        replayed_with(patch, logprobs=scored(0.0))
        batch("run", bundle, path, "-o", tmp_path / "run")
    with monkeypatch.context() as patch:
        replayed_with(patch, logprobs=scored(1e-6))
        assert batch("replay", tmp_path / "run", "--id", "a").code == 0
    replayed_with(monkeypatch, logprobs=scored(0.01))
    result = batch("replay", tmp_path / "run", "--id", "a")
    assert result.code == 1
    assert "a: another row; completions[0].logprobs[0].logprob was -1.0, now it is -0.99\n" in result.err


def test_a_shorter_completion_is_another_row(batch, run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    replayed_with(monkeypatch, token_ids=lambda made: (*made.token_ids, 99))
    last = len(read_lines(run_dir / "output.jsonl")[3]["token_ids"])
    result = batch("replay", run_dir, "--id", "3")
    assert result.err == f"spectr-batch: 3: another row; token_ids[{last}] was None, now it is 99\n"


def test_an_unknown_id_is_refused(batch, run_dir: Path):
    result = batch("replay", run_dir, "--id", "none")
    assert (result.code, "No record of" in result.err) == (2, True)


def test_a_run_that_does_not_tell_how_it_decoded_is_refused(batch, run_dir: Path):
    for path in (run_dir / "sessions").iterdir():
        path.unlink()
    result = batch("replay", run_dir, "--id", "3")
    assert result.code == 2
    assert result.err == (
        f"spectr-batch: error: {run_dir}/sessions holds no events, which say how the rows were "
        "decoded. Restore its files.\n"
    )


def test_a_record_without_a_row_is_refused(batch, bundle: Path, prompts: Path, tmp_path: Path):
    batch("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 5, "--rank", 0, "--world", 2, own_shards=True)
    result = batch("replay", tmp_path / "run", "--id", "row-5")
    assert (result.code, "has no row in" in result.err) == (2, True)


def test_the_bundle_may_have_moved_but_must_be_the_same(batch, run_dir: Path, bundle: Path, tmp_path: Path):
    bundle.rename(tmp_path / "moved")
    assert batch("replay", run_dir, "--id", "3").code == 42
    assert batch("replay", run_dir, "--id", "3", "--bundle", tmp_path / "moved").code == 0
    write_bundle(tmp_path / "moved", tag="other")
    result = batch("replay", run_dir, "--id", "3", "--bundle", tmp_path / "moved")
    assert (result.code, "is not the bundle of" in result.err) == (42, True)


COMPLETED: dict[str, Any] = {"id": "a", "text": ""}
FAILED = {"id": "a", "error": {"message": "draft has the source draft", "code": "unsupported_parameter"}}


@pytest.mark.parametrize(
    ("plan", "draft", "row", "alone"),
    [
        ("auto", None, COMPLETED, "plain"),
        (Plan("race", 2, 4, "texts"), None, COMPLETED, "plain"),
        (Plan("race", 2, 4, "corpus"), None, COMPLETED, "plain"),
        (Plan("race", 2, 4), "corpus", COMPLETED, "plain"),
        (Plan("race", 2, 4), "lookup", COMPLETED, "race K=2 L=4"),
        (Plan("race", 2, 4, "lookup"), None, COMPLETED, "race K=2 L=4 lookup"),
        (Plan("kseq", 2, 4), False, COMPLETED, "kseq K=2 L=4"),
        ("auto", "draft", FAILED, "auto"),
        (Plan("race", 2, 4, "texts"), "draft", FAILED, "race K=2 L=4 texts"),
    ],
)
def test_what_is_not_drafted_again_is_replayed_plainly_and_a_failure_as_it_was(
    plan: PlanChoice, draft: object, row: dict[str, Any], alone: str
):
    record = parse(json.dumps({"prompt": "Hi", "draft": draft}).encode(), "in.jsonl:1", "simple", SamplingParams())
    setup = _alone(Setup(plan, 8, "torch", "cpu"), record, row, drafting=False)
    assert (str(setup.plan), setup.batch_size) == (alone, 1)
    assert _alone(Setup(plan, 8, "torch", "cpu"), record, row, drafting=True).plan == plan
    assert _drafts_again(plan, record) == (row is COMPLETED and alone != "plain")
