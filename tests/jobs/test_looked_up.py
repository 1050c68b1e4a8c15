"""Drafts that are looked up change no row: killed, resumed or shared out, a run writes what plain decoding writes."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from eager_pair import eager_bundle
from jobs_stub import read_lines, write_lines

from spectr_jobs.cli import main as cli
from spectr_jobs.work import models as seam
from spectr_jobs.work.session import Session
from spectr_runtime import Bundle, Decoder
from spectr_runtime.bundle.layout import MANIFEST

# Python warns of forks of processes with threads; the ones of torch are idle.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
fork = multiprocessing.get_context("fork")
Process = multiprocessing.process.BaseProcess
ASKED = (None, False, "lookup", {"source": "corpus", "length": 3}, "texts", None)
RECORDS = [
    {
        "id": n,
        "prompt": f"{'abc' * 8} {n % 4}",
        "max_tokens": 48,
        "temperature": 0.3,
        "logit_bias": {} if n % 6 != 2 else {"64": 6, "65": 6},  # a text of two letters, which soon repeats itself
        "draft": ASKED[n % len(ASKED)],
        "seed": n % 4 if n % 3 else None,  # equal texts, which the corpus then has
    }
    for n in range(30)
]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    made = eager_bundle(tmp_path_factory.mktemp("pair"))
    (made.path / MANIFEST).write_text(json.dumps(made.manifest.to_json()))  # its hash names what is known of costs
    return made


@pytest.fixture
def start(pair: Bundle, bundle: Path):
    """Starts ``spectr-batch run`` with the pair in a fork of this process; after so many rows it kills itself."""

    def open_decoder(bundle: Bundle, setup: Any, *, seed: int, date: Any) -> Decoder:
        return Decoder(
            pair,
            plan=setup.plan,
            backend="torch",
            batch_size=setup.rows,
            seed=seed,
            date=date,
            longest=setup.longest,
            corpus=setup.corpus,
        )

    def start(inputs: Path, output: Path, *options: object, rows: int | None = None) -> Process:
        def command() -> None:
            seam.open_decoder = open_decoder
            count, write = itertools.count(1), Session.row

            def row(self: Session, *arguments: Any) -> None:
                write(self, *arguments)
                if next(count) == rows:
                    os.kill(os.getpid(), signal.SIGKILL)

            Session.row = row  # type: ignore[method-assign]
            common = ("run", bundle, inputs, "-o", output, "--batch-size", 4, "--shard-size", 8)
            sys.exit(cli.call([str(one) for one in (*common, *options)]))

        process = fork.Process(target=command)
        process.start()
        return process

    return start


def code_of(process: Process) -> int | None:
    process.join()
    return process.exitcode


def rows_of(run: Path) -> list[dict[str, Any]]:
    """The rows, without the counts of speculation."""
    rows = read_lines(run / "output.jsonl")
    return [{name: value for name, value in row.items() if name != "speculation"} for row in rows]


def accepted(run: Path) -> Counter[str]:
    """How many drafts of each source were accepted."""
    total: Counter[str] = Counter()
    for row in read_lines(run / "output.jsonl"):
        total.update({name: did["accepted"] for name, did in row["speculation"].get("sources", {}).items()})
    return total


@pytest.mark.parametrize("plan", [("--plan", "auto"), ("--source", "texts", "--drafts", 2)], ids=str)
def test_a_killed_run_and_one_of_two_ranks_write_the_rows_of_a_quiet_one(
    start, tmp_path: Path, plan: tuple[object, ...]
):
    inputs = write_lines(tmp_path / "in.jsonl", RECORDS)
    assert code_of(start(inputs, tmp_path / "plain", "--plan", "plain")) == 0
    expected = rows_of(tmp_path / "plain")
    assert len(expected) == len(RECORDS)
    assert accepted(tmp_path / "plain") == {}

    assert code_of(start(inputs, tmp_path / "quiet", *plan)) == 0
    for rows in (1, 9, 6):
        assert code_of(start(inputs, tmp_path / "killed", *plan, rows=rows)) == -signal.SIGKILL
    assert code_of(start(inputs, tmp_path / "killed", *plan)) == 0
    ranks = [start(inputs, tmp_path / "ranks", *plan, "--world", 2, "--rank", rank) for rank in (0, 1)]
    assert [code_of(process) for process in ranks] == [0, 0]
    for folder in ("quiet", "killed", "ranks"):
        assert rows_of(tmp_path / folder) == expected
    if "texts" in plan:
        assert min(accepted(tmp_path / "quiet")[source] for source in ("lookup", "corpus")) > 10


def test_the_output_of_a_run_is_the_corpus_of_another(start, tmp_path: Path):
    records = [{"id": n, "prompt": "abc" * 8, "max_tokens": 24, "temperature": 0.3, "seed": n} for n in range(4)]
    inputs = write_lines(tmp_path / "in.jsonl", records)
    assert code_of(start(inputs, tmp_path / "plain", "--plan", "plain")) == 0
    plan = ("--source", "corpus", "--drafts", 1, "--length", 8)
    assert code_of(start(inputs, tmp_path / "alone", *plan)) == 0
    corpus = tmp_path / "plain" / "output.jsonl"
    assert code_of(start(inputs, tmp_path / "told", *plan, "--corpus", corpus)) == 0
    for folder in ("alone", "told"):
        assert rows_of(tmp_path / folder) == rows_of(tmp_path / "plain")
    assert accepted(tmp_path / "told")["corpus"] > accepted(tmp_path / "alone")["corpus"] + 5


def test_a_record_that_the_plan_cannot_honour_is_a_failed_row(start, tmp_path: Path):
    asked = {"none": False, "own": "draft", "other": "lookup", "longer": {"source": "draft", "length": 9}}
    records = [{"id": name, "prompt": "abc", "max_tokens": 4, "draft": draft} for name, draft in asked.items()]
    inputs = write_lines(tmp_path / "in.jsonl", records)
    assert code_of(start(inputs, tmp_path / "run", "--rule", "kseq")) == 3
    assert [row["id"] for row in rows_of(tmp_path / "run")] == ["none", "own"]
    failed = read_lines(tmp_path / "run" / "errors.jsonl")
    assert [(row["id"], row["error"]["param"], row["error"]["code"]) for row in failed] == [
        ("other", "draft", "unsupported_parameter"),
        ("longer", "draft", "unsupported_parameter"),
    ]
    assert failed[0]["error"]["message"].startswith(
        "in.jsonl:3: draft has the source lookup; the text of the plan kseq K=2 L=8 depends on what is drafted, so it "
        "must be false, or draft with the length 8 or none."
    )
    assert code_of(start(inputs, tmp_path / "auto")) == 0
    assert len(rows_of(tmp_path / "auto")) == len(asked)
