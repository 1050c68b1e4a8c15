"""The batch size that a process chooses: what it is chosen for, where it is told and kept, and that no row changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import CHOSEN, write_lines

from spectr_jobs.drivers.ray import _beside
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.sessions import read_facts
from spectr_jobs.work import load as module
from spectr_jobs.work import models as seam
from spectr_jobs.work.load import Load, look_into
from spectr_runtime import RequestError, UsageError
from spectr_runtime.planning.footprint import Footprint


def facts(run_dir: Path) -> list[tuple[Any, Any]]:
    return [(one["batch_size"], one.get("batch_size_reason")) for one in read_facts(run_dir / "sessions")]


def test_a_run_tells_the_number_and_the_reason_and_keeps_both(batch, bundle: Path, prompts: Path, tmp_path: Path):
    result = batch("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 4)
    assert (result.code, result.decoder.batch_size) == (0, CHOSEN)
    assert f"spectr-batch: batch size {CHOSEN}: the stub says so" in result.err.splitlines()
    assert f"decoding 20 records: auto, batch {CHOSEN}, onnxruntime on cpu" in result.err
    assert facts(tmp_path / "run") == [(CHOSEN, f"batch size {CHOSEN}: the stub says so")]
    (session,) = json.loads((tmp_path / "run" / "summary.json").read_text())["sessions"]
    assert session["batch_size"] == CHOSEN
    assert batch("replay", tmp_path / "run", "--id", "row-3").code == 0


def test_a_number_that_was_given_is_taken(batch, bundle: Path, prompts: Path, tmp_path: Path, chosen: list[Any]):
    batch("run", bundle, prompts, "-o", tmp_path / "run", "--batch-size", 3)
    assert (chosen, facts(tmp_path / "run")) == ([], [(3, None)])


def test_rows_are_those_of_every_other_size_and_a_resumed_run_may_take_another(
    batch, bundle: Path, prompts: Path, tmp_path: Path, after_rows
):
    for size in (1, 8):
        batch("run", bundle, prompts, "-o", tmp_path / f"{size}", "--shard-size", 4, "--batch-size", size)
    command = ("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 4)
    batch(*command, "--batch-size", 2, "--rank", 0, "--world", 2, own_shards=True)
    assert batch(*command).code == 0
    assert [size for size, _ in facts(tmp_path / "run")] == [2, CHOSEN]
    rows = {name: (tmp_path / name / "output.jsonl").read_bytes() for name in ("1", "8", "run")}
    assert rows["1"] == rows["8"] == rows["run"]


def test_two_workers_each_choose_for_their_part(batch, bundle: Path, prompts: Path, tmp_path: Path, chosen: list[Any]):
    batch("run", bundle, prompts, "-o", tmp_path / "whole")
    command = ("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 4, "--world", 2)
    for rank in (0, 1):
        assert batch(*command, "--rank", rank, own_shards=True).code == 0
    assert [(one.load.completions, one.processes) for one in chosen] == [(20, 1), (12, 2), (8, 2)]
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == (tmp_path / "whole" / "output.jsonl").read_bytes()


def test_where_not_one_row_fits_the_run_says_so(
    batch, bundle: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*arguments: object, **options: object) -> None:
        raise UsageError("Not one row fits into the memory of cpu.", hint="Free memory.")

    monkeypatch.setattr(seam, "choose_batch", refuse)
    result = batch("run", bundle, prompts, "-o", tmp_path / "run")
    assert (result.code, result.decoder) == (2, None)
    assert result.err.splitlines()[-1] == ("spectr-batch: error: Not one row fits into the memory of cpu. Free memory.")


def test_a_dry_run_shows_what_a_rank_would_choose(
    batch, bundle: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: list[Any]
):
    class Letters:
        def encode(self, prompt: str, most: int) -> tuple[int, ...]:
            return tuple(prompt.encode())

    monkeypatch.setattr(seam, "open_tokenizer", lambda bundle, *, date: Letters())
    monkeypatch.setattr(seam, "footprint", lambda bundle, how, longest: Footprint(2_000_000, 64, 500, 10_000))
    monkeypatch.setattr(seam, "free_memory", lambda device: 10_000_000)
    command = ("run", bundle, prompts, "-o", tmp_path / "run", "--shard-size", 4, "--dry-run")
    result = batch(*command, "--rank", 1, "--world", 2)
    assert (result.code, result.decoder.batch_size) == (0, CHOSEN)
    assert f"dry run, nothing is written: auto, batch {CHOSEN}, onnxruntime on cpu" in result.err
    assert f"\n  batch size     {CHOSEN}: the stub says so\n  memory         2.4 MB of 10 MB: " in result.err
    assert [(one.load.completions, one.processes) for one in chosen] == [(10, 2)]


def test_actors_on_few_machines_share_them():
    alive, dead = {"Alive": True}, {"Alive": False}
    assert [_beside(nodes, 5) for nodes in ([alive], [alive, dead], [alive] * 2, [alive] * 9, [])] == [5, 5, 3, 1, 5]


def test_completions_that_are_left_are_counted(batch, bundle: Path, tmp_path: Path, chosen: list[Any]):
    records = [{"id": n, "prompt": ["a", "b"], "n": 3, "max_tokens": 5} for n in range(10)] + [{"id": 10, "prompt": ""}]
    path = write_lines(tmp_path / "in.jsonl", records)
    command = ("run", bundle, path, "-o", tmp_path / "run", "--shard-size", 4)
    batch(*command, "--rank", 0, "--world", 3, own_shards=True)
    batch(*command)
    first, last = (one.load for one in chosen)
    assert (first.records, first.completions, first.most_tokens) == (4, 24, 120)
    assert (last.records, last.completions, last.most_tokens) == (6, 36, 180)


def test_of_many_shards_a_few_from_all_over_are_looked_into(
    batch, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    records = [{"id": n, "prompt": "x" * (1 + n // 10), "n": 1 + n // 80} for n in range(160)]
    path = write_lines(tmp_path / "in.jsonl", records)
    batch("run", bundle, path, "-o", tmp_path / "run", "--shard-size", 10, "--rank", 0, "--world", 16, own_shards=True)
    run, read = RunDirectory.open(tmp_path / "run"), list[int]()
    real = module.ShardReader.read

    def reading(self: Any, shard: int) -> Any:
        read.append(shard)
        return real(self, shard)

    monkeypatch.setattr(module.ShardReader, "read", reading)
    load = look_into(run, range(1, 16))
    assert read == [1, 5, 10, 15]
    assert (load.records, load.completions, len(load.sample)) == (150, 225, 40)
    monkeypatch.setattr(module, "only_forward", lambda source: True)
    assert look_into(run, range(1, 16)).completions == 150
    assert read[4:] == [1, 2, 3, 4]


def test_an_input_that_has_changed_is_left_to_the_worker(batch, bundle: Path, tmp_path: Path):
    path = write_lines(tmp_path / "in.jsonl", [{"id": n, "prompt": "x"} for n in range(8)])
    batch("run", bundle, path, "-o", tmp_path / "run", "--shard-size", 4, "--rank", 0, "--world", 2, own_shards=True)
    run = RunDirectory.open(tmp_path / "run")
    path.write_bytes(path.read_bytes().replace(b'"x"', b'"y"'))
    assert look_into(run, [1]) == Load()
    path.unlink()
    assert look_into(run, [1]) == look_into(run, [1] * 9) == Load()


def test_lengths_are_means_over_the_prompts_that_can_be_read(batch, bundle: Path, tmp_path: Path):
    class Letters:
        def encode(self, prompt: str, most: int) -> tuple[int, ...]:
            if len(prompt) > most:
                raise RequestError("Too long.")
            return tuple(prompt.encode())

    records = [{"id": 1, "prompt": ["a" * 10, "b" * 30, "c" * 99], "max_tokens": 12}, {"id": 2, "prompt": "d" * 20}]
    path = write_lines(tmp_path / "in.jsonl", [*records, {"id": 3, "prompt": "e" * 41}])
    batch("run", bundle, path, "-o", tmp_path / "run")
    load = look_into(RunDirectory.open(tmp_path / "run"), [0])
    assert load == Load()
    (tmp_path / "again").mkdir()
    command = ("run", bundle, path, "-o", tmp_path / "two", "--shard-size", 2, "--rank", 1, "--world", 2)
    batch(*command, own_shards=True)
    load = look_into(RunDirectory.open(tmp_path / "two"), [0])
    prompt, limit, longest = load.lengths(Letters(), 40)
    assert prompt == (10 + 30 + 20) / 3
    assert limit == pytest.approx((12 + 10 + 20) / 3)
    assert longest == 40
    assert load.lengths(Letters(), 98).longest == 20 + 78, "record 2 has no limit of its own below 98"
    assert load.lengths(Letters(), 150).longest == 20 + 128
    assert Load().lengths(Letters(), 40) == (1.0, 1.0, 40)
