from __future__ import annotations

import datetime
import gzip
import io
import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import read_lines, write_bundle, write_lines

from spectr_jobs.records.tally import Tally
from spectr_jobs.work import progress as progress_module
from spectr_jobs.work.progress import Progress


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def test_every_record_is_completed_in_input_order(batch, bundle: Path, prompts: Path, run_dir: Path):
    result = batch("run", bundle, prompts, "-o", run_dir, "--shard-size", 6)
    assert result.code == 0
    assert result.out == ""
    ids = [f"row-{n}" if n != 7 else "prompts.jsonl:8" for n in range(20)]
    rows = read_lines(run_dir / "output.jsonl")
    assert [row["id"] for row in rows] == ids
    assert [row["n_th"] for row in rows] == list(range(20))
    assert (run_dir / "errors.jsonl").read_bytes() == b""


def test_the_summary_adds_the_rows_up(batch, bundle: Path, prompts: Path, run_dir: Path):
    batch(
        "run",
        bundle,
        prompts,
        "-o",
        run_dir,
        "--seed",
        3,
        "--rule",
        "single",
        "--drafts",
        1,
        "--length",
        2,
        pause=0.001,
    )
    summary = json.loads((run_dir / "summary.json").read_text())
    rows = read_lines(run_dir / "output.jsonl")
    assert (summary["rows"], summary["failed"]) == (20, 0)
    assert summary["completion_tokens"] == sum(row["usage"]["completion_tokens"] for row in rows)
    assert summary["prompt_tokens"] == sum(row["usage"]["prompt_tokens"] for row in rows)
    assert (summary["rounds"], summary["block_efficiency"], summary["acceptance_by_depth"]) == (40, 2.5, [1.0, 0.5])
    assert (summary["plan"], summary["seed"]) == ("single K=1 L=2", 3)
    assert summary["tokens_per_second"] == pytest.approx(summary["completion_tokens"] / summary["seconds"], rel=0.1)
    assert sum(stage["seconds"] for stage in summary["timing"].values()) == pytest.approx(summary["seconds"], abs=0.01)
    assert summary["timing"]["verify"]["seconds"] > 0


def test_the_summary_on_stderr_reads_as_a_table(batch, bundle: Path, run_dir: Path, tmp_path: Path):
    path = write_lines(tmp_path / "in.jsonl", [{"id": 1, "prompt": "a", "max_tokens": 1}, {"id": 2, "prompt": ""}])
    lines = batch("run", bundle, path, "-o", run_dir).err.splitlines()
    assert lines[0] == f"spectr-batch: {path}: 2 simple records"
    assert lines[1] == (
        'spectr-batch: in.jsonl:2: prompt: got "", '
        "allowed a non-empty text, a non-empty list of token ids, or a list of several of either."
    )
    assert lines[2] == "spectr-batch: 1 of 2 records cannot be decoded; they go to errors.jsonl"
    assert lines[3] == f"spectr-batch: defaults of records: max_tokens 128, temperature 1; date {datetime.date.today()}"
    assert lines[4] == "spectr-batch: batch size 8: the stub says so"
    assert lines[5] == "spectr-batch: decoding 2 records: auto, batch 8, onnxruntime on cpu"
    assert "  rows               1 completed, 1 failed" in lines
    assert "  tokens             1 read, 1 written" in lines
    assert "  block efficiency   2.50 tokens per target pass (auto)" in lines
    assert "  accepted by depth  1: 100%  2: 50%" in lines
    assert f"  errors             {run_dir}/errors.jsonl" in lines


def test_many_files_are_told_in_one_line(batch, bundle: Path, run_dir: Path, tmp_path: Path):
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(30):
        record = {"id": number, "prompt": "x"}
        openai = {"custom_id": f"c{number}", "method": "POST", "url": "/v1/completions", "body": {"prompt": "x"}}
        write_lines(folder / f"{number}.jsonl", [record, openai])
    for number in range(3):
        (folder / f"empty-{number}.jsonl").touch()
    lines = batch("run", bundle, folder, "-o", run_dir).err.splitlines()
    assert lines[:3] == [
        "spectr-batch: 33 files: 30 simple records, 30 OpenAI batch records",
        f"spectr-batch: warning: {folder}/empty-0.jsonl and 2 more files: no record",
        f"spectr-batch: defaults of records: max_tokens 128, temperature 1; date {datetime.date.today()}",
    ]


def test_bad_records_and_failed_rows_go_to_the_errors_file(batch, bundle: Path, run_dir: Path, tmp_path: Path):
    body: dict[str, Any] = {"model": "m", "prompt": "Hi"}
    batch_line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    path = tmp_path / "in.jsonl"
    write_lines(
        path,
        [
            batch_line,
            batch_line | {"custom_id": "b", "body": body | {"stream": True}},
            batch_line | {"custom_id": "long"},
        ],
    )
    with path.open("ab") as file:
        file.write(b"{broken\n")
    result = batch("run", bundle, path, "-o", run_dir)
    assert result.code == 3
    assert [row["custom_id"] for row in read_lines(run_dir / "output.jsonl")] == ["a"]
    errors = {row["custom_id"]: row["response"]["body"]["error"] for row in read_lines(run_dir / "errors.jsonl")}
    assert list(errors) == ["b", "long", "in.jsonl:4"]
    assert errors["b"]["code"] == "unsupported_parameter"
    assert errors["long"]["message"] == "in.jsonl:3: The prompt is too long."
    assert errors["in.jsonl:4"]["code"] == "invalid_json"


@pytest.mark.parametrize(("rate", "code"), [(0.49, 3), (0.5, 0), (1, 0)])
def test_an_error_rate_that_is_allowed_is_no_failure(
    batch, bundle: Path, run_dir: Path, tmp_path: Path, rate: float, code: int
):
    path = write_lines(tmp_path / "in.jsonl", [{"id": "a", "prompt": "x"}, {"id": "long", "prompt": "x"}])
    assert batch("run", bundle, path, "-o", run_dir, "--max-error-rate", rate).code == code


def test_rows_depend_on_seed_and_record_alone(batch, bundle: Path, prompts: Path, tmp_path: Path):
    def rows(name: str, *arguments: object, path: Path = prompts) -> dict[str, Any]:
        batch("run", bundle, path, "-o", tmp_path / name, *arguments)
        return {row["id"]: row for row in read_lines(tmp_path / name / "output.jsonl")}

    first = rows("first")
    turned = tmp_path / "turned" / "prompts.jsonl"
    turned.parent.mkdir()
    lines = prompts.read_bytes().splitlines(keepends=True)
    turned.write_bytes(b"".join([*lines[8:], *lines[:7]]))
    again = rows("again", "--batch-size", 3, "--shard-size", 2, path=turned)
    assert again == {key: row for key, row in first.items() if key != "prompts.jsonl:8"}
    assert rows("other", "--seed", 1)["row-0"] != first["row-0"]


def test_memory_does_not_grow_with_the_input(batch, bundle: Path, run_dir: Path, tmp_path: Path):
    path = write_lines(tmp_path / "in.jsonl", [{"prompt": "x"}] * 500)
    decoder = batch("run", bundle, path, "-o", run_dir, "--batch-size", 4, "--shard-size", 50).decoder
    assert (decoder.finished, decoder.most_waiting) == (500, 4)


def test_defaults_of_the_command_reach_records_that_do_not_say(batch, bundle: Path, run_dir: Path, tmp_path: Path):
    path = write_lines(tmp_path / "in.jsonl", [{"id": 1, "prompt": "x"}, {"id": 2, "prompt": "x", "max_tokens": 2}])
    batch("run", bundle, path, "-o", run_dir, "--max-tokens", 1)
    assert read_lines(run_dir / "output.jsonl")[0]["usage"]["completion_tokens"] == 1
    assert json.loads((run_dir / "manifest.json").read_text())["terms"]["sampling"]["max_tokens"] == 1


def test_the_plan_reaches_the_summary(batch, bundle: Path, prompts: Path, run_dir: Path):
    assert batch("run", bundle, prompts, "-o", run_dir, "--plan", "plain", "--limit", 3).code == 0
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["plan"], summary["rows"]) == ("plain", 3)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--plan", "plain", "--rule", "kseq"], 2, "--plan plain and --rule exclude each other."),
        (["--rule", "magic"], 2, "Rule 'magic' is unknown"),
        (["--drafts", "0"], 2, "Invalid value for '--drafts'"),
        (["--temperature", "-1"], 2, "--temperature: temperature is -1.0; it must be"),
        (["--time-limit", "soon"], 2, "Invalid value for '--time-limit': got 'soon', allowed seconds, or a time like"),
        (["--rank", "2"], 2, "--rank came without --world."),
        (["-o", "s3://bucket/run"], 2, "The run directory s3://bucket/run is a URL; it must be a folder"),
        (["nowhere.jsonl"], 2, "Input nowhere.jsonl: there is no such file."),
    ],
)
def test_wrong_usage_ends_with_2_and_says_what(
    batch, bundle: Path, prompts: Path, run_dir: Path, arguments: list[str], code: int, message: str
):
    result = batch("run", bundle, prompts, "-o", run_dir, *arguments)
    assert result.code == code
    assert message in result.err
    assert result.decoder is None


def test_a_folder_that_is_not_a_run_is_left_alone(batch, bundle: Path, prompts: Path, run_dir: Path):
    run_dir.mkdir()
    (run_dir / "mine.txt").touch()
    result = batch("run", bundle, prompts, "-o", run_dir)
    assert (result.code, [path.name for path in run_dir.iterdir()]) == (2, ["mine.txt"])
    assert "is not empty and is not a run directory. Take a new run directory." in result.err


def test_what_can_never_work_ends_with_42(batch, bundle: Path, prompts: Path, run_dir: Path, tmp_path: Path):
    missing = batch("run", tmp_path / "none", prompts, "-o", run_dir)
    assert (missing.code, missing.decoder) == (42, None)
    assert "spectr-batch: error: " in missing.err
    twice = write_lines(tmp_path / "twice.jsonl", [{"id": 1, "prompt": "x"}] * 2)
    result = batch("run", bundle, twice, "-o", run_dir)
    assert (result.code, result.decoder) == (42, None)
    assert "'1' at twice.jsonl:1 and twice.jsonl:2" in result.err


def test_a_crash_of_the_decoder_is_no_click_error(
    batch, bundle: Path, prompts: Path, run_dir: Path, monkeypatch: pytest.MonkeyPatch
):
    from jobs_stub import StubDecoder

    from spectr_runtime import EngineError

    def fail(*_: object) -> None:
        raise EngineError("The device is gone.")

    monkeypatch.setattr(StubDecoder, "_outcome", fail)
    result = batch("run", bundle, prompts, "-o", run_dir)
    assert (result.code, result.err.splitlines()[-1]) == (1, "spectr-batch: error: The device is gone.")
    (events,) = (run_dir / "sessions").iterdir()
    assert read_lines(events)[-1]["reason"] == "EngineError"


def test_stdin_and_stdout_make_a_filter(
    batch, bundle: Path, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    batch("run", bundle, prompts, "-o", tmp_path / "run")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(prompts.read_bytes())))
    result = batch("run", bundle, "-", "-o", "-")
    assert result.code == 0
    rows = {row["id"]: row for row in map(json.loads, result.out.splitlines())}
    expected = {row["id"]: row for row in read_lines(tmp_path / "run" / "output.jsonl")}
    assert rows.keys() - expected.keys() == {"stdin.jsonl:8"}
    assert all(rows[key] == expected[key] for key in expected.keys() & rows.keys())


def test_several_inputs_make_one_run(batch, bundle: Path, prompts: Path, run_dir: Path, tmp_path: Path):
    more = tmp_path / "more.jsonl.gz"
    more.write_bytes(gzip.compress(b'{"id":"last","prompt":"x"}\n'))
    batch("run", bundle, prompts, more, "-o", run_dir, "--shard-size", 6)
    assert [row["id"] for row in read_lines(run_dir / "output.jsonl")][18:] == ["row-18", "row-19", "last"]


def test_help_needs_no_models():
    code = (
        "import sys; from spectr_jobs.cli.main import call; call(['run', '--help']); "
        "print(*({'torch', 'transformers', 'onnxruntime'} & sys.modules.keys()), file=sys.stderr, end='')"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert shown.stderr == ""
    assert "spectr-batch run build/demo/bundle examples/prompts.jsonl" in shown.stdout


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_gets_a_bar_that_is_cleared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress_module, "BAR_SECONDS", 0)
    stream = Terminal()
    bar = Progress(stream, 40)
    bar.skip(10)
    bar.show(Tally(9, 1, 5, 100, 10, [6]), 10.0)
    shown = "━━━━━━━━━━────────── 50% · 20/40 rows · 1 failed · 20.0 s left · 10 tokens/s · block efficiency 1.60"
    assert stream.getvalue().endswith(f"\r{shown}")
    bar.clear()
    assert stream.getvalue().endswith(f"\r{' ' * len(shown)}\r")


def test_elsewhere_a_plain_line_comes_now_and_then(monkeypatch: pytest.MonkeyPatch):
    stream = io.StringIO()
    Progress(stream, 40).show(Tally(10), 10.0)
    assert stream.getvalue() == ""
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 0)
    line = Progress(stream, 40)
    line.show(Tally(10), 10.0)
    line.clear()
    assert stream.getvalue() == "spectr-batch: 25% · 10/40 rows · 30.0 s left · 0 tokens/s\n"


def test_another_bundle_has_another_hash(tmp_path: Path):
    one, two = (write_bundle(tmp_path / tag, tag=tag) for tag in "ab")
    assert (one / "spectr.json").read_bytes() != (two / "spectr.json").read_bytes()


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        (200, "50% · 20/40 rows · 1 failed · 20.0 s left · 10 tokens/s · block efficiency 1.60"),
        (80, "50% · 20/40 rows · 1 failed · 20.0 s left · 10 tokens/s"),
        (50, "50% · 20/40 rows · 1 failed"),
        (30, "50%"),
    ],
)
def test_the_bar_fits_into_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int, shown: str):
    monkeypatch.setattr(progress_module, "BAR_SECONDS", 0)
    monkeypatch.setattr(progress_module, "_columns", lambda stream: columns)
    stream = Terminal()
    bar = Progress(stream, 40)
    bar.skip(10)
    bar.show(Tally(9, 1, 5, 100, 10, [6]), 10.0)
    line = stream.getvalue().rpartition("\r")[2]
    assert line.lstrip("━─ ") == shown
    assert len(line) < columns


def test_the_summary_of_ranks_tells_the_time_in_which_any_decoded(batch, bundle: Path, prompts: Path, run_dir: Path):
    ranks = ("run", bundle, prompts, "-o", run_dir, "--shard-size", 6, "--world", 2)
    for rank in range(2):
        batch(*ranks, "--rank", rank, own_shards=True, pause=0.002)
    (first, second) = (read_lines(path) for path in sorted((run_dir / "sessions").iterdir()))
    for events in (first, second):
        events[0]["time"] = 1000.0 + (events is second) * 3.0
        events[-1]["seconds"] = 4.0
    for path, events in zip(sorted((run_dir / "sessions").iterdir()), (first, second), strict=True):
        write_lines(path, events)
    (run_dir / "summary.json").unlink()
    result = batch("run", bundle, prompts, "-o", run_dir, "--shard-size", 6)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert (summary["seconds"], summary["process_seconds"]) == (7.0, 8.0)
    assert summary["tokens_per_second"] == pytest.approx(summary["completion_tokens"] / 7, abs=1e-3)
    assert "tokens/s in 7.0 s of decoding, 2 sessions" in result.err
    assert [session["ended"] for session in summary["sessions"]] == ["done", "done"]


def test_the_summary_counts_failures_by_their_code(batch, bundle: Path, run_dir: Path, tmp_path: Path):
    ids = ["a", "long-1", "long-2", "flaky", "b"]
    path = write_lines(tmp_path / "in.jsonl", [{"id": one, "prompt": "x"} for one in ids])
    result = batch("run", bundle, path, "-o", run_dir)
    summary = json.loads((run_dir / "summary.json").read_text())
    assert summary["failures"] == {"context_length_exceeded": 2, "non_finite_logits": 1}
    assert "  failures           2 context_length_exceeded, 1 non_finite_logits" in result.err.splitlines()


def test_what_the_runtime_logs_is_told_like_everything_else(
    batch, bundle: Path, prompts: Path, run_dir: Path, after_rows
):
    after_rows(3, lambda: logging.getLogger("spectr_runtime.decoder").warning("No memory for %d rows.", 8))
    assert "\nspectr-batch: No memory for 8 rows.\n" in batch("run", bundle, prompts, "-o", run_dir).err


@pytest.mark.parametrize("place", ["file", "file/run"])
def test_a_file_in_the_place_of_the_run_directory_is_refused(
    batch, bundle: Path, prompts: Path, tmp_path: Path, place: str
):
    (tmp_path / "file").touch()
    result = batch("run", bundle, prompts, "-o", tmp_path / place)
    assert result.code == 2
    assert result.err.endswith(
        f"{tmp_path / place} cannot be a run directory: it is a file, or a folder above it is. Name a folder.\n"
    )
