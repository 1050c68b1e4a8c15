"""A target without a draft, from its checkpoint to rows: built, looked at, measured, compiled and decoded plainly."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from tiny_models import VOCABULARY
from transformers import AutoModelForCausalLM

from spectr_export.cli import main
from spectr_jobs.cli import main as batch
from spectr_runtime import Bundle, BundleError, Completion, Decoder, Plan, Request, SamplingParams, UsageError
from spectr_runtime.planning.footprint import Footprint
from spectr_runtime.planning.planner import TEXT_RACES
from spectr_runtime.rows.score import Written
from spectr_runtime.scorer import Scorer

FILES = ("config.json", "model.onnx", "model.safetensors")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def built(pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """A bundle of the pair's target alone, and what its build said; a test that changes the bundle copies it first."""
    path = tmp_path_factory.mktemp("draftless") / "plain.bundle"
    result = run("build", pair[0], "-o", path)
    assert result.exit_code == 0, result.output
    return path, result


@pytest.fixture(scope="module")
def plain(built: tuple[Path, Result]) -> Path:
    return built[0]


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    shutil.copytree(plain, tmp_path / "copy.bundle")
    return tmp_path / "copy.bundle"


def requests() -> list[Request]:
    """Prompts of many lengths with mixed sampling, two of them with scored prompts."""
    made = []
    for row in range(14):
        params = SamplingParams(
            max_tokens=3 + 5 * row % 40,
            temperature=(1.0, 0.0, 0.6)[row % 3],
            top_p=(1.0, 0.9)[row % 2],
            logprobs=2 if row < 2 else None,
        )
        made.append(Request(f"row {row}", tuple((7 * row + n) % 256 for n in range(1 + 9 * row % 60)), params))
    return [dataclasses.replace(one, echo=True) if one.id == "row 1" else one for one in made]


def decoded(path: Path, **options: Any) -> list[Completion]:
    decoder = Decoder(Bundle.open(path), seed=5, **options)
    outcomes = list(decoder.generate(requests()))
    assert not any(plan.feeds_draft for plan in decoder.rounds)
    assert all(isinstance(one, Completion) for one in outcomes)
    return sorted((one for one in outcomes if isinstance(one, Completion)), key=lambda one: one.id)


def test_the_bundle_holds_the_target_and_says_so(built: tuple[Path, Result], bundle_path: Path) -> None:
    path, result = built
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        "capacity 128 tokens per text",
        "draft",
        "target",
        "target",
    ]
    assert result.stderr.splitlines()[1] == "draft: none, what texts hold already is drafted"
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert {name for name in files if not name.startswith("tokenizer/")} == {
        "spectr.json",
        *(f"target/{name}" for name in FILES),
    }
    manifest, other = Bundle.open(path).manifest, Bundle.open(bundle_path).manifest
    assert manifest.models.keys() == manifest.parity.keys() == manifest.quality.keys() == {"target"}
    assert manifest.models["target"] == other.models["target"]
    assert manifest.vocabulary.size == other.vocabulary.size == VOCABULARY, "padding of the logits is never written"
    assert manifest.files == {name: digest for name, digest in other.files.items() if not name.startswith("draft/")}


def test_a_dry_run_estimates_the_target_alone(pair: tuple[Path, Path], tmp_path: Path) -> None:
    result = run("build", pair[0], "-o", tmp_path / "bundle", "--dry-run")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert [line.partition(" ")[0] for line in lines[1:3]] == ["target", "draft"]
    assert lines[2] == "draft       none, what texts hold already is drafted"
    size = re.search(r": (\d\.\d) MB$", lines[1])
    assert size is not None
    assert f"disk        {size[1]} MB and a few" in result.stdout
    assert not (tmp_path / "bundle").exists()


def test_a_capacity_is_that_of_the_target(pair: tuple[Path, Path], tmp_path: Path) -> None:
    result = run("build", pair[0], "-o", tmp_path / "bundle", "--capacity", 129)
    assert (result.exit_code, list(tmp_path.iterdir())) == (2, [])
    assert "must be 64 to 128, the longest text that the bundle's models were made for." in result.stderr


def test_inspect_shows_that_there_is_no_draft(plain: Path) -> None:
    result = run("inspect", plain)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[1].startswith("target      llama, float32, 2 layers, ")
    assert lines[3] == "draft       none, what texts hold already is drafted"
    assert json.loads(run("inspect", plain, "--json").stdout) == json.loads((plain / "spectr.json").read_text())


def test_check_compares_the_target_again(plain: Path) -> None:
    result = run("check", plain)
    assert (result.exit_code, result.stdout) == (0, f"{plain}: sound\n")
    assert [line.split(":")[0] for line in result.stderr.splitlines()[1:]] == ["target"]


def test_files_in_the_place_of_a_draft_are_refused(copy: Path, bundle_path: Path) -> None:
    shutil.copytree(bundle_path / "draft", copy / "draft")
    with pytest.raises(BundleError, match=r"draft/config\.json is in the bundle .* the manifest does not list it"):
        Bundle.open(copy)


def test_calibrate_measures_the_plans_that_need_no_draft(copy: Path) -> None:
    before = Bundle.open(copy).sha256
    result = run("calibrate", copy, "--batch-size", 2)
    assert result.exit_code == 0, result.output
    measured = [re.split("  +", line) for line in result.stdout.splitlines()]
    assert measured[:2] == [["milliseconds of a round, by rows of the batch"], ["plan", "1", "2"]]
    assert [plan for plan, *_ in measured[2:]] == ["plain", *map(str, TEXT_RACES)]
    assert Bundle.open(copy).sha256 == before


def test_compile_makes_an_engine_of_the_target_alone(copy: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    options = ("--backend", "tensorrt-rtx", "--compute-capability", "8.9", "--batch-size", 2)
    result = run("compile", copy, *options)
    assert result.exit_code == 0, result.output
    (engine,) = copy.rglob("*.engine")
    assert engine.parent == copy / "target" / "engines"
    assert "1 engines are as they were compiled" in run("check", copy).stderr
    assert [line.split(":")[0] for line in run("inspect", copy).stdout.splitlines()[7:]] == ["engines     target"]


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_rows_are_those_of_the_same_target_beside_a_draft(plain: Path, bundle_path: Path, backend: str) -> None:
    expected = decoded(bundle_path, plan=Plan.plain(), batch_size=4, backend=backend)
    assert decoded(plain, plan=Plan.plain(), batch_size=4, backend=backend) == expected
    looked_up = decoded(plain, plan="auto", batch_size=4, backend=backend)
    assert [(one.token_ids, one.text) for one in looked_up] == [(one.token_ids, one.text) for one in expected]
    assert {one.speculation.accepted_at_depth for one in expected} == {()}


@torch.inference_mode()
def test_greedy_text_is_that_of_transformers(plain: Path, pair: tuple[Path, Path]) -> None:
    model = AutoModelForCausalLM.from_pretrained(pair[0], dtype=torch.float32, attn_implementation="eager")
    params = SamplingParams(max_tokens=30, temperature=0, ignore_eos=True)
    prompts = [tuple((11 * row + n) % 256 for n in range(4 + row)) for row in range(5)]
    asked = [Request(str(row), prompt, params) for row, prompt in enumerate(prompts)]
    found = {one.id: one for one in Decoder(Bundle.open(plain), plan="auto", batch_size=3).generate(asked)}
    for request, prompt in zip(asked, prompts, strict=True):
        text = list(prompt)
        for _ in range(params.max_tokens):
            text.append(int(model(torch.tensor([text])).logits[0, -1, :VOCABULARY].argmax()))
        outcome = found[request.id]
        assert isinstance(outcome, Completion)
        assert [*prompt, *outcome.token_ids] == text


def test_nothing_is_opened_measured_or_counted_for_a_draft(plain: Path, caplog: pytest.LogCaptureFixture) -> None:
    bundle = Bundle.open(plain)
    decoder = Decoder(bundle, plan="auto", batch_size=3)
    assert decoder._loop.pair.draft is None
    assert not caplog.records
    planned = Footprint.of(bundle, "auto", "onnxruntime")
    assert planned.weights == (plain / "target" / "model.safetensors").stat().st_size
    cache = decoder._loop.pair.target.cache
    cache.resize(cache.capacity)
    assert cache.nbytes == 3 * planned.cache_per_row


def test_a_plan_that_drafts_is_refused_wherever_it_is_asked_for(plain: Path) -> None:
    bundle, plan = Bundle.open(plain), Plan("kseq", 2, 2)
    for use in (
        lambda: Decoder(bundle, plan=plan),
        lambda: Footprint.of(bundle, plan, "onnxruntime"),
        lambda: Scorer(bundle, backend="onnxruntime", device="cpu", batch_size=1, plan=plan),
    ):
        with pytest.raises(UsageError, match="The plan is kseq K=2 L=2, and the bundle has no draft"):
            use()


def test_the_target_scores_what_it_wrote(plain: Path) -> None:
    rows = {one.id: one.token_ids for one in decoded(plain, plan="auto", batch_size=4)}
    written = [Written(request, rows[request.id]) for request in requests()]
    scorer = Scorer(Bundle.open(plain), backend="onnxruntime", device="cpu", batch_size=4, plan="auto")
    tokens = [token for score in scorer.score(written) for token in score.tokens]
    assert len(tokens) == sum(map(len, rows.values()))
    assert all(token.possible for token in tokens)
    assert {token.below_by_ratio for token in tokens} == {None}


def spectr_batch(*arguments: object) -> int:
    return batch.call([str(argument) for argument in arguments], None)


def texts_of(run_dir: Path) -> Sequence[dict[str, Any]]:
    """The rows, without the counts of speculation."""
    rows = map(json.loads, (run_dir / "output.jsonl").read_bytes().splitlines())
    return [{name: value for name, value in row.items() if name != "speculation"} for row in rows]


def test_a_run_decodes_goes_on_and_is_audited(
    plain: Path, bundle_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    records = tmp_path / "in.jsonl"
    lines = ({"id": n, "prompt": f"Say {n}", "max_tokens": 4 + n, "temperature": n % 3 / 2} for n in range(12))
    records.write_text("".join(json.dumps(line) + "\n" for line in lines))
    how = ("--shard-size", 4, "--seed", 3)
    assert spectr_batch("run", bundle_path, records, "-o", tmp_path / "pair", "--plan", "plain", *how) == 0
    command = ("run", plain, records, "-o", tmp_path / "run", *how)
    assert spectr_batch(*command, "--rule", "kseq") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "pair"]
    assert spectr_batch(*command, "--dry-run") == 0
    assert not (tmp_path / "run").exists()
    assert spectr_batch(*command) == 0
    assert texts_of(tmp_path / "run") == texts_of(tmp_path / "pair")
    shutil.rmtree(sorted((tmp_path / "run" / "shards").iterdir())[1])
    (tmp_path / "run" / "output.jsonl").unlink()
    capsys.readouterr()
    assert spectr_batch(*command, "--plan", "plain", "--batch-size", 2) == 0
    told = capsys.readouterr().err
    assert "has no draft" not in told, "plain decoding has none in any bundle"
    assert "decoding 4 records: plain, batch 2" in told
    assert texts_of(tmp_path / "run") == texts_of(tmp_path / "pair")
    assert spectr_batch("replay", tmp_path / "run", "--id", "7") == 0
    assert spectr_batch("audit", tmp_path / "run") == 0
    assert "draft" not in capsys.readouterr().err
