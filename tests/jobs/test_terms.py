"""What fixes the prompts and laws of a whole run: its date, and the sampling parameters of records that set none."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import write_bundle, write_lines

OWN = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.1}
TODAY = datetime.date.today()


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A bundle whose model has sampling parameters of its own."""
    return write_bundle(tmp_path / "trained", sampling=OWN)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def manifest_of(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "manifest.json").read_bytes())


def test_the_order_is_record_option_model_neutral(batch, trained: Path, run_dir: Path, tmp_path: Path):
    path = write_lines(
        tmp_path / "in.jsonl",
        [{"id": "none", "prompt": "a"}, {"id": "own", "prompt": "a", "top_p": 0.5, "top_k": 0, "min_p": None}],
    )
    result = batch("run", trained, path, "-o", run_dir, "--top-k", 7)
    none, own = (result.decoder.params[name] for name in ("none", "own"))
    assert (none.temperature, none.top_p, none.top_k, none.min_p, none.repetition_penalty) == (0.7, 0.8, 7, 0.0, 1.1)
    assert (own.temperature, own.top_p, own.top_k, own.min_p, own.repetition_penalty) == (0.7, 0.5, 0, 0.0, 1.1)
    assert (
        "spectr-batch: defaults of records: max_tokens 128, temperature 0.7 (of the model), top_p 0.8 (of the model), "
        f"top_k 7, repetition_penalty 1.1 (of the model); date {TODAY}"
    ) in result.err.splitlines()
    summary = json.loads((run_dir / "summary.json").read_bytes())
    assert summary["sampling"] == {"max_tokens": 128, "min_p": 0.0} | OWN | {"top_k": 7}
    assert summary["date"] == str(TODAY)


@pytest.mark.parametrize(
    ("option", "value"), [("--temperature", 0.0), ("--top-p", 0.5), ("--min-p", 0.1), ("--repetition-penalty", 1.3)]
)
def test_every_parameter_has_an_option(batch, trained: Path, run_dir: Path, prompts: Path, option: str, value: float):
    params = batch("run", trained, prompts, "-o", run_dir, option, value).decoder.params["row-0"]
    assert getattr(params, option[2:].replace("-", "_")) == value


def test_neutral_leaves_the_models_own_out(batch, trained: Path, run_dir: Path, prompts: Path):
    result = batch("run", trained, prompts, "-o", run_dir, "--sampling-defaults", "neutral", "--top-k", 3)
    params = result.decoder.params["row-0"]
    assert (params.temperature, params.top_p, params.top_k, params.repetition_penalty) == (1.0, 1.0, 3, 1.0)
    assert f"defaults of records: max_tokens 128, temperature 1, top_k 3; date {TODAY}" in result.err


def test_the_defaults_are_terms_of_the_run(batch, trained: Path, run_dir: Path, prompts: Path):
    assert batch("run", trained, prompts, "-o", run_dir).code == 0
    assert batch("run", trained, prompts, "-o", run_dir).code == 0
    other = batch("run", trained, prompts, "-o", run_dir, "--sampling-defaults", "neutral")
    assert other.code == 2
    assert (
        "was started with other values: --temperature was 0.7, now it is 1.0; --top-p was 0.8, now it is 1.0; "
        "--top-k was 20, now it is 0; --repetition-penalty was 1.1, now it is 1.0."
    ) in other.err


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ({"temperature": -1.0}, "temperature is -1.0; it must be 0, or from 0.00001 to 1000."),
        ({"heat": 1.0}, "SamplingParams.__init__() got an unexpected keyword argument 'heat'"),
    ],
)
def test_a_bundle_with_malformed_parameters_is_refused(
    batch, run_dir: Path, prompts: Path, tmp_path: Path, own: dict[str, float], words: str
):
    bundle = write_bundle(tmp_path / "odd", sampling=own)
    result = batch("run", bundle, prompts, "-o", run_dir)
    assert result.code == 42
    assert result.err.endswith(
        f"error: The sampling parameters of {bundle} are malformed: {words} Build the bundle again.\n"
    )


def test_the_date_of_a_run_is_that_of_its_start_in_every_session(batch, bundle: Path, run_dir: Path, prompts: Path):
    first = batch("run", bundle, prompts, "-o", run_dir, "--date", "2024-02-29")
    assert first.decoder.date == datetime.date(2024, 2, 29)
    assert manifest_of(run_dir)["terms"]["date"] == "2024-02-29"
    # A later session takes the date from the manifest, whatever day it is and without being told.
    second = batch("run", bundle, prompts, "-o", run_dir)
    assert "date 2024-02-29" in second.err
    replayed = batch("replay", run_dir, "--id", "row-0")
    assert (replayed.code, replayed.decoder.date) == (0, datetime.date(2024, 2, 29))
    other = batch("run", bundle, prompts, "-o", run_dir, "--date", "2024-03-01")
    assert other.code == 2
    assert "--date was 2024-02-29, now it is 2024-03-01." in other.err


def test_a_new_run_has_the_date_of_today(batch, bundle: Path, run_dir: Path, prompts: Path):
    assert batch("run", bundle, prompts, "-o", run_dir).decoder.date == TODAY
    assert manifest_of(run_dir)["terms"]["date"] == str(TODAY)


def test_a_dry_run_has_the_date_that_the_run_would_have(batch, bundle: Path, run_dir: Path, prompts: Path):
    batch("run", bundle, prompts, "-o", run_dir, "--date", "2024-02-29")
    assert "date 2024-02-29" in batch("run", bundle, prompts, "-o", run_dir, "--dry-run").err


def test_a_date_that_is_none_is_refused(batch, bundle: Path, run_dir: Path, prompts: Path):
    result = batch("run", bundle, prompts, "-o", run_dir, "--date", "29.2.2024")
    assert result.code == 2
    assert (
        "Invalid value for '--date': got 29.2.2024, allowed is a day as YYYY-MM-DD, for instance 2026-11-28"
    ) in result.err


def test_a_file_of_options_may_hold_a_day(batch, bundle: Path, run_dir: Path, prompts: Path, tmp_path: Path):
    (tmp_path / "spectr.toml").write_text("[run]\ndate = 2024-02-29\n")
    result = batch("run", bundle, prompts, "-o", run_dir, "--config", tmp_path / "spectr.toml")
    assert result.decoder.date == datetime.date(2024, 2, 29)
