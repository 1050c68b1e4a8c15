from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jobs_stub import read_lines, write_bundle, write_lines

from spectr_jobs.run_directory.lock import held
from spectr_jobs.work.stop import SIGNALS, Stop
from spectr_runtime import EngineError


@pytest.fixture
def whole(batch, bundle: Path, prompts: Path, tmp_path: Path) -> bytes:
    """The output of a run that nothing interrupted."""
    assert batch("run", bundle, prompts, "-o", tmp_path / "whole", "--shard-size", 6).code == 0
    return (tmp_path / "whole" / "output.jsonl").read_bytes()


@pytest.fixture
def run(batch, bundle: Path, prompts: Path, tmp_path: Path) -> Callable[..., Any]:
    def command(*arguments: object, inputs: Path = prompts, **options: Any) -> Any:
        return batch("run", bundle, inputs, "-o", tmp_path / "run", "--shard-size", 6, *arguments, **options)

    return command


@pytest.fixture
def break_after(after_rows) -> Callable[[int], None]:
    """Makes the decoder fail after some rows."""

    def fail() -> None:
        raise EngineError("The device is gone.")

    return lambda rows: after_rows(rows, fail)


def rows_on_disk(run_dir: Path) -> int:
    return sum(len(read_lines(path)) for path in run_dir.glob("shards/*/output.jsonl"))


@pytest.mark.parametrize("rows", [0, 1, 5, 6, 7, 13, 19])
def test_the_same_command_goes_on_and_decodes_no_finished_row_again(
    run, break_after, whole: bytes, tmp_path: Path, rows: int
):
    break_after(rows)
    assert run().code == 1
    assert rows_on_disk(tmp_path / "run") == rows
    result = run()
    assert result.code == 0
    assert result.decoder.finished == 20 - rows
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


def test_a_complete_run_loads_no_models_and_tells_its_summary_again(run):
    first, again = run(), run()
    assert (again.code, again.decoder) == (0, None)
    assert again.err.splitlines()[-6:] == first.err.splitlines()[-6:]


def test_a_complete_run_merges_again_what_was_lost(run, whole: bytes, tmp_path: Path):
    run()
    (tmp_path / "run" / "output.jsonl").unlink()
    (tmp_path / "run" / "summary.json").unlink()
    assert run().code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


def test_torn_and_damaged_lines_are_decoded_again(run, break_after, whole: bytes, tmp_path: Path):
    break_after(5)
    run("--batch-size", 1)
    path = tmp_path / "run" / "shards" / "00000" / "output.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b"\0" * 30 + b"\n", lines[3], lines[4][:9]]))
    result = run()
    assert f"{path.parent}: 1 damaged lines; their records are decoded again" in result.err
    assert result.decoder.finished == 17
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        (["--seed", "1"], "--seed was 0, now it is 1"),
        (["--temperature", "0.5"], "--temperature was 1.0, now it is 0.5"),
        (["--limit", "3"], "--limit was None, now it is 3"),
        (["--shard-size", "7"], "--shard-size was 6, now it is 7"),
    ],
)
def test_other_terms_are_refused_with_the_difference(run, arguments: list[str], difference: str):
    run()
    result = run(*arguments)
    assert result.code == 2
    assert f"started with other values: {difference}. Use the values" in result.err


def test_another_bundle_or_other_inputs_are_refused(run, bundle: Path, prompts: Path, tmp_path: Path):
    run()
    write_bundle(bundle, tag="other")
    assert "other values: bundle was " in run().err
    write_bundle(bundle)
    more = write_lines(tmp_path / "more.jsonl", [{"prompt": "x"}])
    assert "inputs was ['prompts.jsonl'], now it is ['more.jsonl']" in run(inputs=more).err
    write_lines(prompts, [{"prompt": "x"}])
    assert "input prompts.jsonl was sha256:" in run().err


def test_the_plan_and_the_batch_may_change(run, break_after, tmp_path: Path):
    break_after(7)
    run("--rule", "kseq", "--batch-size", 2)
    result = run("--plan", "plain", "--batch-size", 5)
    assert result.code == 0
    assert "earlier rows were decoded with kseq K=2 L=8; they stay, since every plan has the same law" in result.err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["plan"], summary["rows"]) == ("kseq K=2 L=8, plain", 20)
    assert [session["batch_size"] for session in summary["sessions"]] == [2, 5]


def test_failures_that_may_not_come_again_are_retried_when_asked(batch, bundle: Path, tmp_path: Path):
    path = write_lines(tmp_path / "in.jsonl", [{"id": one, "prompt": "x"} for one in ("a", "flaky", "long", "b")])
    command = ("run", bundle, path, "-o", tmp_path / "run", "--shard-size", 2)
    assert batch(*command).code == 3
    assert [row["id"] for row in read_lines(tmp_path / "run" / "errors.jsonl")] == ["flaky", "long"]
    assert batch(*command, flaky=False).decoder is None
    again = batch(*command, "--retry-errors", flaky=False)
    assert (again.code, again.decoder.finished) == (3, 1)
    assert "spectr-batch: 1 failed records are tried again" in again.err
    assert [row["id"] for row in read_lines(tmp_path / "run" / "output.jsonl")] == ["a", "flaky", "b"]
    assert [row["id"] for row in read_lines(tmp_path / "run" / "errors.jsonl")] == ["long"]
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["rows"], summary["failed"]) == (3, 1)


def test_a_retry_that_is_interrupted_goes_on_without_the_option(batch, bundle: Path, tmp_path: Path, break_after):
    path = write_lines(tmp_path / "in.jsonl", [{"id": one, "prompt": "x"} for one in ("flaky", "b")])
    command = ("run", bundle, path, "-o", tmp_path / "run")
    batch(*command)
    break_after(0)
    assert batch(*command, "--retry-errors", flaky=False).code == 1
    assert not (tmp_path / "run" / "summary.json").exists()
    assert batch(*command, flaky=False).code == 0
    assert [row["id"] for row in read_lines(tmp_path / "run" / "output.jsonl")] == ["flaky", "b"]


@pytest.mark.parametrize("worlds", [[(0, 2), (1, 2)], [(1, 2), (0, 2)], [(0, 9), (3, 9), (1, 9), (2, 9), (8, 9)]])
def test_ranks_share_the_shards_and_the_last_one_merges(
    run, whole: bytes, tmp_path: Path, worlds: list[tuple[int, int]]
):
    merged = tmp_path / "run" / "output.jsonl"
    done = 0
    for rank, world in worlds:
        assert merged.exists() is (done == 20)
        result = run("--rank", rank, "--world", world, own_shards=True)
        assert result.code == 0
        done += result.decoder.finished if result.decoder else 0
        if done < 20:
            assert f"rank {rank} of {world} (set by --rank and --world): done, " in result.err
    assert done == 20
    assert merged.read_bytes() == whole


def test_the_number_of_ranks_may_change(run, break_after, whole: bytes, tmp_path: Path):
    break_after(4)
    run("--rank", 1, "--world", 2, own_shards=True)
    for rank in range(3):
        assert run("--rank", rank, "--world", 3).code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


def test_shards_that_another_process_has_are_left_to_it(run, whole: bytes, tmp_path: Path, break_after):
    break_after(0)
    run()
    with held(tmp_path / "run" / "shards" / "00000" / "lock"):
        result = run()
        assert result.code == 75
        assert "another process has some shards of" in result.err
        assert rows_on_disk(tmp_path / "run") == 14
        nothing_left = run()
        assert (nothing_left.code, nothing_left.decoder) == (75, None)
        assert "another process is at work on" in nothing_left.err
    assert run().code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


def test_a_foreign_row_is_not_merged(run, break_after, tmp_path: Path):
    break_after(3)
    run()
    path = tmp_path / "run" / "shards" / "00000" / "output.jsonl"
    with path.open("ab") as file:
        file.write(
            b'{"id":"stranger","usage":{"prompt_tokens":0,"completion_tokens":0},"speculation":{"rounds":0,"accepted_at_depth":[]}}\n'
        )
    result = run()
    assert result.code == 1
    assert "holds a row with the id 'stranger', which no record of the shard has." in result.err


@pytest.fixture
def signals():
    """Restores what ``Stop.install`` replaces; what is ignored, as under ``nohup``, would stay so and is let in."""
    numbers = (*SIGNALS, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    for number, handler in zip(numbers, before, strict=True):
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


@pytest.fixture
def signal_after(after_rows, signals: None) -> Callable[[signal.Signals, int], None]:
    """Sends a signal after some rows, to a command that listens."""
    return lambda number, rows: after_rows(rows, lambda: os.kill(os.getpid(), number))


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_lets_the_rows_in_flight_finish_and_ends_with_75(
    run, signal_after, whole: bytes, tmp_path: Path, number: signal.Signals
):
    signal_after(number, 5)
    stop = Stop()
    stop.install()
    result = run(stop=stop)
    assert result.code == 75
    assert result.decoder.finished == result.decoder.pulled == rows_on_disk(tmp_path / "run") < 20
    assert f"stopped by {number.name} after {result.decoder.finished} rows. Run the same command again" in result.err
    assert run().code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGXCPU])
def test_a_signal_that_comes_several_times_by_itself_is_one_signal(run, signals: None, after_rows, number: int):
    stop = Stop()
    stop.install()
    after_rows(5, lambda: [os.kill(os.getpid(), number) for _ in range(3)])
    result = run(stop=stop)
    assert result.code == 75
    assert result.decoder.finished == result.decoder.pulled < 20


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_was_ignored_at_the_start_stays_ignored(run, signals: None, after_rows, number: int):
    signal.signal(number, signal.SIG_IGN)
    stop = Stop()
    stop.install()
    stop.install()  # as after a library has installed its own handlers
    after_rows(5, lambda: os.kill(os.getpid(), number))
    assert run(stop=stop).code == 0


def test_rows_that_take_too_long_to_drain_are_given_up(run, signal_after, whole: bytes, tmp_path: Path):
    signal_after(signal.SIGTERM, 5)
    stop = Stop()
    stop.install()
    result = run("--drain-timeout", "0.02", stop=stop, pause=0.05)
    assert result.code == 75
    assert rows_on_disk(tmp_path / "run") < result.decoder.pulled
    assert run().code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


def test_a_time_limit_stops_ahead_of_it(run, signals: None, whole: bytes, tmp_path: Path):
    result = run("--time-limit", "1", "--drain-timeout", "0.5", pause=0.1)
    assert result.code == 75
    assert "by the time limit" in result.err
    assert rows_on_disk(tmp_path / "run") < 20
    assert run().code == 0
    assert (tmp_path / "run" / "output.jsonl").read_bytes() == whole


@pytest.mark.parametrize(
    ("limit", "drain", "shown"), [("15s", "20s", "15.0 s"), ("20", "20", "20.0 s"), ("0s", "0", "0.0 s")]
)
def test_a_time_limit_that_is_not_longer_than_the_drain_is_refused(run, limit: str, drain: str, shown: str):
    result = run("--time-limit", limit, "--drain-timeout", drain)
    assert (result.code, result.decoder) == (2, None)
    assert f"--time-limit is {shown}, but rows in flight get " in result.err
    assert "allowed is a longer limit. Raise --time-limit, or lower --drain-timeout." in result.err


def test_a_signal_before_decoding_ends_the_command_at_once(
    run, signals: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    from spectr_jobs.commands import run as module

    stop = Stop()
    stop.install()

    def load(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception as error:  # as where models are loaded
            raise EngineError("The model cannot be opened.") from error

    monkeypatch.setattr(module, "survey", load)
    result = run(stop=stop)
    assert (result.code, result.decoder) == (75, None)
    assert result.err == "spectr-batch: error: interrupted by SIGTERM. Run the same command again to go on.\n"
    assert not (tmp_path / "run" / "manifest.json").exists()
    monkeypatch.undo()
    assert run().code == 0
