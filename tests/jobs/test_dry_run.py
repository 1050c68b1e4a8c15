from __future__ import annotations

import datetime
import io
import random
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import StubDecoder, write_lines

from spectr_jobs.commands import pilot
from spectr_jobs.commands.dry_run import Load
from spectr_jobs.commands.pilot import Pilot, measure
from spectr_jobs.records.record import Origin, Record
from spectr_jobs.records.wanted import Wanted
from spectr_jobs.work import models as seam
from spectr_runtime import RequestError, SamplingParams
from spectr_runtime.planning.footprint import Footprint


class Letters:
    """A tokenizer with one token per letter, which refuses capitals."""

    def encode(self, prompt: str, most: int) -> tuple[int, ...]:
        if prompt != prompt.lower():
            raise RequestError("No capitals.")
        return tuple(prompt.encode())


@pytest.fixture
def run(batch, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seam, "open_tokenizer", lambda bundle, *, date: Letters())
    monkeypatch.setattr(seam, "footprint", lambda bundle, how, longest: Footprint(2_000_000, 64, 500, 10_000))
    monkeypatch.setattr(seam, "free_memory", lambda device: 10_000_000)

    def command(records: list[dict[str, Any]] | str, *arguments: object, **options: Any) -> Any:
        path = records if isinstance(records, str) else write_lines(tmp_path / "in.jsonl", records)
        return batch("run", bundle, path, "-o", tmp_path / "run", "--dry-run", *arguments, **options)

    return command


def lines_of(result: Any) -> dict[str, str]:
    found = (line[2:].partition("  ") for line in result.err.splitlines() if line.startswith("  "))
    return {name.strip(): text.strip() for name, _, text in found}


def test_it_tells_records_tokens_memory_and_time_and_writes_nothing(run, tmp_path: Path):
    records = [{"prompt": "four", "n": 1 + n % 2, "max_tokens": 5} for n in range(50)] + [{"prompt": ""}]
    result = run(records, "--shard-size", 20, "--batch-size", 4, pause=0.001)
    assert (result.code, result.out) == (0, "")
    assert result.err.splitlines()[2:5] == [
        "spectr-batch: 1 of 51 records cannot be decoded; they go to errors.jsonl",
        f"spectr-batch: defaults of records: max_tokens 128, temperature 1; date {datetime.date.today()}",
        "spectr-batch: dry run, nothing is written: auto, batch 4, onnxruntime on cpu",
    ]
    lines = lines_of(result)
    assert list(lines) == ["records", "shards", "completions", "prompt tokens", "memory", "pilot", "time"]
    assert lines["records"] == "51, 1 of them cannot be decoded"
    assert lines["shards"] == "3 of up to 20 records"
    assert lines["completions"] == "75, at most 375 tokens"
    assert lines["prompt tokens"] == "200"
    assert lines["memory"] == (
        "2.2 MB of 10 MB: weights 2 MB, caches 128 kB (4 rows of 64 slots, for texts of up to 9 tokens), "
        "shared prefixes 32 kB, laws 40 kB; "
        "at most 160 rows fit"
    )
    assert lines["pilot"].startswith("12 completions in ")
    assert re.fullmatch(
        r"about [\d.]+ s \(95 % sure of [\d.]+ s to [\d.]+ s\), and [\d.]+ s to load the models", lines["time"]
    )
    assert not (tmp_path / "run").exists()


def test_in_a_run_directory_it_tells_what_is_left(run, batch, bundle: Path, tmp_path: Path):
    records = [{"id": n, "prompt": "four", "max_tokens": 5} for n in range(50)]
    path = str(write_lines(tmp_path / "in.jsonl", records))
    plain = ("run", bundle, path, "-o", tmp_path / "run", "--shard-size", 20)
    batch(*plain, "--rank", 0, "--world", 2, own_shards=True)
    before = sorted(tmp_path.rglob("*"))
    result = run(path, "--shard-size", 20, pause=0.001)
    lines = lines_of(result)
    assert lines["left"] == f"20 of them; the others have their rows in {tmp_path / 'run'}"
    assert lines["completions"] == "20, at most 100 tokens"
    assert lines["prompt tokens"] == "80"
    assert sorted(tmp_path.rglob("*")) == before
    assert "--seed was 0, now it is 1" in run(path, "--shard-size", 20, "--seed", 1).err
    batch(*plain)
    whole = run(path, "--shard-size", 20)
    assert (whole.code, whole.decoder, lines_of(whole)["time"]) == (0, None, "none: nothing is left to decode")


def test_few_records_leave_it_open_how_sure_the_time_is(run):
    assert "s (too few completions to estimate the error), and " in lines_of(run([{"prompt": "four"}] * 7))["time"]


def test_ranks_share_the_time(run):
    lines = lines_of(run([{"prompt": "four"}] * 9, "--shard-size", 2, "--rank", 1, "--world", 2))
    assert lines["shards"] == "5 of up to 2 records, 2 of them of rank 1 of 2 (set by --rank and --world)"
    assert " on each of 2 ranks (" in lines["time"]


def test_many_prompts_are_counted_by_a_sample(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("spectr_jobs.commands.dry_run.COUNTED", 40)
    lines = lines_of(run([{"prompt": "x" * (5 + n % 11)} for n in range(2_000)], "--batch-size", 2))
    about, total, _, error = lines["prompt tokens"].removesuffix(", from 40 records").split()
    assert (about, error.endswith("%")) == ("about", True)
    assert abs(int(total.replace(",", "")) - 20_000) < 20_000 * 2 * int(error[:-1]) / 100


def test_prompts_that_cannot_be_tokenized_are_told(run):
    result = run([{"prompt": "four"}] * 3 + [{"prompt": "NO"}])
    assert lines_of(result)["prompt tokens"] == "12"
    assert "1 of 4 prompts looked at cannot be tokenized" in result.err
    assert lines_of(run([{"prompt": "NO"}]))["prompt tokens"] == "none: no prompt can be tokenized"


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(run):
    result = run([{"prompt": "four"}], "--batch-size", 161)
    assert (result.code, result.decoder) == (2, None)
    assert result.err.splitlines()[-1] == (
        "spectr-batch: error: --batch-size 161 needs 10.1 MB of memory on cpu (weights 2 MB, caches 5.15 MB "
        "(161 rows of 64 slots, for texts of up to 64 tokens), "
        "shared prefixes 1.29 MB, laws 1.61 MB); 10 MB are free. At most 160 rows fit."
    )


def test_a_system_that_does_not_tell_its_memory_is_no_obstacle(run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(seam, "free_memory", lambda device: None)
    assert lines_of(run([{"prompt": "four"}]))["memory"].startswith("2.4 MB: weights 2 MB, ")


def test_records_that_all_fail_leave_the_time_open(run):
    lines = lines_of(run([{"id": "long", "prompt": "four"}]))
    assert lines["time"] == "unknown: none of the sampled records could be decoded"


def test_stdin_is_read_and_not_kept(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"prompt":"four"}\n' * 3)))
    assert lines_of(run("-"))["records"] == "3"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("option", ["--dry-run", "--print-config"])
def test_no_job_is_submitted_for_it(batch, bundle: Path, tmp_path: Path, option: str):
    command = ("--ranks", 2, "--time", "1h", "--to", tmp_path / "job", "--", bundle, "in.jsonl", "-o", "run", option)
    result = batch("submit", "slurm", *command)
    assert result.code == 2
    assert result.err.splitlines()[-1] == f"Error: {option} decodes nothing; give it to `spectr-batch run`."
    assert not (tmp_path / "job").exists()


def test_wrong_inputs_end_as_they_would_without_it(run, tmp_path: Path):
    assert run(str(tmp_path / "none.jsonl")).code == 2
    assert run([{"id": 1, "prompt": "x"}] * 2).code == 42


def test_every_record_has_the_same_chance_to_be_in_the_sample():
    counts: Counter[str] = Counter()
    for seed in range(2_000):
        load, generator = Load(), random.Random(seed)
        for n in range(10):
            load.add(Record(Origin("in:1", "simple", n), ("x",), Wanted(SamplingParams())), 3, generator)
        counts.update(record.origin.key for record in load.sample)
    assert (load.records, len(load.sample)) == (10, 3)
    assert all(abs(count - 600) < 5 * (600 * 0.7) ** 0.5 for count in counts.values())


def test_a_pilot_leaves_the_first_generation_out_and_tells_how_sure_it_is():
    marks = [(float(n), 10 * n) for n in range(5)] + [(4 + 2.0 * n, 40 + 5 * n) for n in range(1, 13)]
    assert measure(marks, 4) == Pilot(completions=12, tokens=60, seconds=24.0, uncertainty=0.0)
    marks[-1] = (29.0, 100)
    found = measure(marks, 4)
    # Groups of 6, 6, 6 and 7 seconds: standard deviation 1/2, four groups, mean 6.25.
    assert found.uncertainty == pytest.approx(3.18 * 0.5 / 2 / 6.25)
    assert found.seconds_per_completion == pytest.approx(25 / 12)


def test_a_short_pilot_uses_all_and_does_not_say_how_sure_it_is():
    assert measure([(0.0, 0), (1.0, 5), (3.0, 9)], 4) == Pilot(2, 9, 3.0, None)


def test_a_pilot_ends_after_four_generations_or_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch):
    def requests() -> Any:
        record = Record(Origin("in:1", "simple", "a"), ("x",), Wanted(SamplingParams(), n=100))
        return record.requests

    decoder = StubDecoder(batch_size=4)
    assert pilot.decode_sample(decoder, requests(), 4) is not None
    assert decoder.finished == 16
    monkeypatch.setattr(pilot, "LONGEST", 0.0)
    decoder = StubDecoder(batch_size=4)
    assert pilot.decode_sample(decoder, requests(), 4) is not None
    assert decoder.finished == 4
