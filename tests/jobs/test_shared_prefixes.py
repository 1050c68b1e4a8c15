"""Runs whose prompts share prefixes write the same bytes however they are cut, by a decoder with models."""

from __future__ import annotations

import datetime
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jobs_stub import read_lines, write_lines
from table_pair import table_decoder

from spectr_jobs.cli import main as cli
from spectr_jobs.drivers import local
from spectr_jobs.work import models as seam
from spectr_jobs.work.setup import Setup
from spectr_runtime import Bundle, Decoder, EngineError, Outcome
from spectr_runtime.rows.row import Row

SYSTEM = [1, 3, 2, 2, 4, 1, 1, 2] * 4
RECORDS = [{"token_ids": [*SYSTEM, 1 + row % 4], "max_tokens": 6, "n": 1 + row % 3} for row in range(14)]
Run = Callable[..., int]


@pytest.fixture
def run(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Decodes the records into a folder; after some outcomes the device may be gone."""
    inputs = write_lines(tmp_path / "in.jsonl", RECORDS)
    monkeypatch.setattr(local, "left_over", lambda run, given_up, stop: iter(()))

    def command(folder: str, *arguments: object, prefix_tokens: int | None = None, outcomes: int | None = None) -> int:
        def open_decoder(bundle: Bundle, setup: Setup, *, seed: int, date: datetime.date) -> Decoder:
            decoder = table_decoder(
                monkeypatch, setup.plan, batch_size=setup.batch_size, seed=seed, prefix_tokens=prefix_tokens
            )
            decode = decoder._loop.decode

            def cut(made, *, stopped) -> Iterator[Row | Outcome]:
                yield from itertools.islice(decode(made, stopped=stopped), outcomes)
                if outcomes is not None:
                    raise EngineError("The device is gone.")

            decoder._loop.decode = cut  # type: ignore[method-assign]
            return decoder

        monkeypatch.setattr(seam, "open_decoder", open_decoder)
        options = ("--shard-size", 5, "--rule", "kseq", "--drafts", 2, "--length", 2, "--batch-size", 4)
        return cli.call(["run", *map(str, (bundle, inputs, "-o", tmp_path / folder, *options, *arguments))])

    return command


def test_a_run_that_is_cut_or_shared_out_writes_the_rows_of_a_quiet_one(run: Run, tmp_path: Path) -> None:
    assert run("off", prefix_tokens=0) == 0
    expected = (tmp_path / "off" / "output.jsonl").read_bytes()
    assert len(read_lines(tmp_path / "off" / "output.jsonl")) == len(RECORDS)
    assert run("quiet") == 0
    assert run("cut", outcomes=9) == 1
    assert run("cut", outcomes=5) == 1
    assert run("cut") == 0
    assert run("ranks", "--rank", 1, "--world", 2, outcomes=3) == 1
    assert [run("ranks", "--rank", rank, "--world", 2) for rank in (0, 1)] == [0, 0]
    for folder in ("quiet", "cut", "ranks"):
        assert (tmp_path / folder / "output.jsonl").read_bytes() == expected
    reading = {
        folder: json.loads((tmp_path / folder / "summary.json").read_bytes())["reading"] for folder in ("off", "quiet")
    }
    whole = 32 * sum(record["n"] for record in RECORDS)  # the last token of a prompt is fed by the first round
    assert (reading["off"]["read"], reading["off"]["copied"]) == (whole, 0)
    assert (reading["quiet"]["read"], reading["quiet"]["copied"]) == (32, whole - 32), (
        "all begin with the same 32 tokens"
    )
    assert reading["quiet"]["calls"] < reading["off"]["calls"]
