"""Every failure that a user can cause: its exit code and the very words on stderr.

``$here`` stands for the test's folder, where ``in.jsonl``, ``bundle`` and a complete run ``done`` are.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import StubDecoder, write_bundle, write_lines

from spectr_runtime import EngineError

Arrange = Callable[[Path], None]


@pytest.fixture
def here(batch, tmp_path: Path) -> Path:
    write_bundle(tmp_path / "bundle")
    write_lines(tmp_path / "in.jsonl", [{"id": n, "prompt": "x"} for n in range(3)])
    arguments = (tmp_path / "bundle", tmp_path / "in.jsonl", "-o", tmp_path / "done")
    assert batch("run", *arguments).code == 0
    return tmp_path


def nothing(here: Path) -> None: ...


def lines(*records: Any) -> Arrange:
    def arrange(here: Path) -> None:
        write_lines(here / "in.jsonl", records)

    return arrange


def content(name: str, data: bytes) -> Arrange:
    def arrange(here: Path) -> None:
        (here / name).parent.mkdir(exist_ok=True)
        (here / name).write_bytes(data)

    return arrange


def change_manifest(**fields: Any) -> Arrange:
    def arrange(here: Path) -> None:
        path = here / "bundle" / "spectr.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return arrange


def last_line(text: str, here: Path) -> str:
    return text.splitlines()[-1].replace(str(here), "$here")


RUN = ["run", "$here/bundle", "$here/in.jsonl", "-o", "$here/run"]
CASES: dict[str, tuple[Arrange, list[str], int, str]] = {
    "no command": (nothing, ["walk"], 2, "Error: No such command 'walk'."),
    "no output": (nothing, RUN[:3], 2, "Error: Missing option '-o' / '--output'."),
    "a batch of none": (
        nothing,
        [*RUN, "--batch-size", "0"],
        2,
        "Error: Invalid value for '--batch-size': 0 is not in the range x>=1.",
    ),
    "an unknown rule": (
        nothing,
        [*RUN, "--rule", "magic"],
        2,
        "spectr-batch: error: Rule 'magic' is unknown; it must be one of single, kseq, rrs, rrsw, greedy, race, gls, "
        "block, gbv, traversal, otm, otm-block, plain.",
    ),
    "a rule that takes one path": (
        nothing,
        [*RUN, "--rule", "block", "--drafts", "2"],
        2,
        "spectr-batch: error: Rule block takes one draft path; got K=2. Use --drafts 1 or --rule kseq.",
    ),
    "a plan and a rule": (
        nothing,
        [*RUN, "--plan", "plain", "--length", "3"],
        2,
        "spectr-batch: error: --plan plain and --length exclude each other. Leave one of them out.",
    ),
    "a temperature below none": (
        nothing,
        [*RUN, "--temperature", "-1"],
        2,
        "spectr-batch: error: --temperature: temperature is -1.0; it must be 0, or from 0.00001 to 1000.",
    ),
    "no such input": (
        nothing,
        [*RUN[:2], "$here/none.jsonl", *RUN[3:]],
        2,
        "spectr-batch: error: Input $here/none.jsonl: there is no such file. "
        "Name files of JSON Lines, CSV or Parquet, or folders of them.",
    ),
    "an input named twice": (
        nothing,
        [*RUN[:3], "$here/in.jsonl", *RUN[3:]],
        2,
        "spectr-batch: error: Input $here/in.jsonl is the same file as $here/in.jsonl. Name it once.",
    ),
    "a run directory that is something else": (
        content("run/mine.txt", b""),
        RUN,
        2,
        "spectr-batch: error: $here/run is not empty and is not a run directory. Take a new run directory.",
    ),
    "other values than the run was started with": (
        nothing,
        [*RUN[:4], "$here/done", "--seed", "1", "--limit", "2"],
        2,
        "spectr-batch: error: The run directory was started with other values: --seed was 0, now it is 1; "
        "--limit was None, now it is 2. Use the values that it was started with, or take a new run directory.",
    ),
    "a damaged manifest": (
        content("done/manifest.json", b"{}"),
        [*RUN[:4], "$here/done"],
        2,
        "spectr-batch: error: $here/done/manifest.json is damaged: KeyError('format_version'). "
        "Take a new run directory.",
    ),
    "no run directory to verify": (
        nothing,
        ["verify", "$here"],
        2,
        "spectr-batch: error: $here is not a run directory: no manifest.json in it. "
        "Name a folder that `spectr-batch run` made.",
    ),
    "no such record to replay": (
        nothing,
        ["replay", "$here/done", "--id", "9"],
        2,
        "spectr-batch: error: No record of $here/done has the id '9'. Ids are those of output.jsonl and errors.jsonl.",
    ),
    "an audit of rows whose input has changed": (
        lines({"id": 0, "prompt": "y"}),
        ["audit", "$here/done"],
        2,
        "spectr-batch: error: The rows cannot be scored: input $here/in.jsonl is not the file that was decoded. "
        "Restore it first.",
    ),
    "an input without a record": (
        content("in.jsonl", b"\n\n"),
        RUN,
        42,
        "spectr-batch: error: $here/in.jsonl: no record. "
        "The input must be JSON Lines, one record per line, or a table, one record per row.",
    ),
    "an id that occurs twice": (
        lines({"id": "a", "prompt": "x"}, {"prompt": "x"}, {"id": "a", "prompt": "y"}),
        RUN,
        42,
        "spectr-batch: error: Ids occur twice: 'a' at in.jsonl:1 and in.jsonl:3. Give every record an id of its own.",
    ),
    "an input in UTF-16": (
        content("in.jsonl", '{"prompt": "x"}\n'.encode("utf-16")),
        RUN,
        42,
        "spectr-batch: error: in.jsonl is UTF-16; allowed is UTF-8. "
        "Convert it: `iconv -f UTF-16 -t UTF-8 $here/in.jsonl > utf8.jsonl`.",
    ),
    "a compressed input that is cut": (
        content("cut.jsonl.gz", gzip.compress(b'{"prompt": "x"}\n' * 99, mtime=0)[:-9]),
        [*RUN[:2], "$here/cut.jsonl.gz", *RUN[3:]],
        42,
        "spectr-batch: error: cut.jsonl.gz:100: damaged: the file ends in the middle of its compressed data. "
        "Copy the file again.",
    ),
    "a bundle that is not there": (
        nothing,
        ["run", "$here/none", *RUN[2:]],
        42,
        "spectr-batch: error: $here/none is not a bundle: no such folder. "
        "Make one with `spectr-export build TARGET --draft DRAFT -o $here/none`.",
    ),
    "a bundle of another version": (
        change_manifest(format_version=9),
        RUN,
        42,
        "spectr-batch: error: The bundle's format_version is 9; this spectr reads 3. "
        "Build it again with this version's `spectr-export build`.",
    ),
    "a bundle with a file missing": (
        change_manifest(files={"target/model.onnx": "0"}),
        RUN,
        42,
        "spectr-batch: error: target/model.onnx is missing from the bundle $here/bundle. "
        "Copy the bundle again, or build it again.",
    ),
    "a replay with another bundle": (
        change_manifest(versions={"tag": "other"}),
        ["replay", "$here/done", "--id", "1"],
        42,
        "spectr-batch: error: $here/bundle is not the bundle of $here/done. Name the right one with --bundle.",
    ),
    "a run that was altered": (
        content("done/shards/00000/errors.jsonl", b'{"id": 1, "error": {}}\n'),
        ["verify", "$here/done"],
        1,
        "spectr-batch: $here/done is broken: of 3 records 3 completed, 1 failed, 0 to be decoded",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_failure_has_its_exit_code_and_its_words(batch, here: Path, name: str) -> None:
    arrange, arguments, code, message = CASES[name]
    arrange(here)
    result = batch(*(argument.replace("$here", str(here)) for argument in arguments))
    assert (result.code, last_line(result.err, here), result.out) == (code, message, "")
    assert result.decoder is None


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (EngineError("The device is gone.", hint="Look at it."), "The device is gone. Look at it."),
        (
            OSError(5, "Input/output error", "out"),
            "[Errno 5] Input/output error: 'out'. Look at the disk or its mount. Run the same command again to go on.",
        ),
        (OSError(98, "Address already in use"), "[Errno 98] Address already in use"),
    ],
)
def test_what_breaks_while_decoding_ends_with_1(
    batch, here: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def outcome(*_: object) -> None:
        raise error

    monkeypatch.setattr(StubDecoder, "_outcome", outcome)
    result = batch(*(argument.replace("$here", str(here)) for argument in RUN))
    assert (result.code, last_line(result.err, here)) == (1, f"spectr-batch: error: {message}")


def test_an_unforeseen_error_is_not_swallowed(batch, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def outcome(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(StubDecoder, "_outcome", outcome)
    with pytest.raises(ZeroDivisionError):
        batch(*(argument.replace("$here", str(here)) for argument in RUN))


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (1, 3)])
def test_failed_records_are_the_difference_between_0_and_3(batch, here: Path, failed: int, code: int) -> None:
    lines(*({"id": f"{'long' if n < failed else 'good'} {n}", "prompt": "x"} for n in range(3)))(here)
    result = batch(*(argument.replace("$here", str(here)) for argument in RUN))
    assert result.code == code
    shown = f"{3 - failed} completed" + (f", {failed} failed" if failed else "")
    assert f"  rows               {shown}\n" in result.err


def test_a_run_of_one_rank_leaves_the_rest_to_be_decoded_and_verify_ends_with_75(batch, here: Path) -> None:
    run = [argument.replace("$here", str(here)) for argument in RUN]
    assert batch(*run, "--shard-size", 2, "--rank", 0, "--world", 2, own_shards=True).code == 0
    result = batch("verify", here / "run")
    assert result.code == 75
    assert last_line(result.err, here) == (
        "spectr-batch: $here/run is incomplete: of 3 records 2 completed, 0 failed, 1 to be decoded"
    )
