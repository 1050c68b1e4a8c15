from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from spectr_jobs import clock


@pytest.fixture
def shown(batch, tmp_path: Path):
    def show(*arguments: object) -> dict[str, object]:
        result = batch("run", "bundle", "input", "-o", "run", "--print-config", *arguments)
        assert result.code == 0, result.err
        return tomllib.loads(result.out)["run"]

    return show


def test_the_command_line_comes_first_then_the_environment_then_the_file(
    shown, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    file = tmp_path / "spectr.toml"
    file.write_text("[run]\nbatch-size = 1\nseed = 1\ndrafts = 1\nmax_tokens = 1\n")
    monkeypatch.setenv("SPECTR_BATCH_SIZE", "2")
    monkeypatch.setenv("SPECTR_SEED", "2")
    values = shown("--config", file, "--batch-size", 3)
    assert [values[name] for name in ("batch-size", "seed", "drafts", "max-tokens", "shard-size")] == [3, 2, 1, 1, 1000]


def test_every_value_says_where_it_comes_from(batch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "spectr.toml"
    file.write_text("[run]\nseed = 1\n")
    monkeypatch.setenv("SPECTR_DRAFTS", "2")
    lines = batch("run", "b", "i", "-o", "run", "--print-config", "--config", file).out.splitlines()
    assert lines[:4] == ["[run]", 'output = "run"  # command line', "# rule is not set", "drafts = 2  # environment"]
    assert "seed = 1  # file" in lines
    assert 'batch-size = "auto"  # default' in lines


def test_what_is_shown_can_be_given_back_as_a_file(batch, shown, tmp_path: Path):
    out = batch("run", "b", "i", "-o", "run", "--print-config", "--retry-errors", "--time-limit", "1h").out
    (tmp_path / "spectr.toml").write_text(out)
    values = shown("--config", tmp_path / "spectr.toml")
    assert "print-config" not in values
    assert (values["retry-errors"], values["time-limit"], values["drain-timeout"]) == (True, 3600.0, 20.0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[run]\nbatch = 1\n", "got batch, allowed are output, rule, drafts"),
        ("[walk]\nseed = 1\n", "got walk, allowed is one table [run]"),
        ("run = 1\n", "got int, allowed is one table [run]"),
        ("[run", "is not TOML"),
        ("[run]\nbatch-size = 2.5\n", 'spectr.toml: batch-size: got 2.5, allowed is an integer or "auto".'),
        ("[run]\nbatch-size = true\n", 'spectr.toml: batch-size: got true, allowed is an integer or "auto".'),
        ('[run]\nbatch-size = "2"\n', 'spectr.toml: batch-size: got "2", allowed is an integer or "auto".'),
        ("[run]\ntop-p = false\n", "spectr.toml: top-p: got false, allowed is a number."),
        ('[run]\nretry-errors = "no"\n', 'spectr.toml: retry-errors: got "no", allowed is true or false.'),
        ("[run]\nretry-errors = 1\n", "spectr.toml: retry-errors: got 1, allowed is true or false."),
        ("[run]\ndevice = 1\n", "spectr.toml: device: got 1, allowed is a text."),
        ("[run]\ntime-limit = true\n", "spectr.toml: time-limit: got true, allowed is a text."),
        ('[run]\ncolumn = "prompt=text"\n', 'spectr.toml: column: got "prompt=text", allowed is a list.'),
        ("[run]\nbatch-size = 0\n", "Invalid value for '--batch-size': 0 is not in the range x>=1"),
    ],
)
def test_a_wrong_file_is_refused(batch, tmp_path: Path, content: str, message: str):
    file = tmp_path / "spectr.toml"
    file.write_text(content)
    result = batch("run", "b", "i", "-o", "run", "--config", file)
    assert result.code == 2
    assert message in " ".join(result.err.split())


def test_a_file_may_leave_the_batch_size_to_the_run(shown, tmp_path: Path):
    (tmp_path / "spectr.toml").write_text('[run]\nbatch-size = "auto"\n')
    assert shown("--config", tmp_path / "spectr.toml")["batch-size"] == "auto"


def test_types_of_toml_and_a_byte_order_mark_are_read(shown, tmp_path: Path):
    (tmp_path / "spectr.toml").write_bytes(
        b"\xef\xbb\xbf[run]\r\nbatch-size = 2\r\ntop-p = 1\r\ntime-limit = 60\r\ndate = 2024-02-29\r\n"
        b'column = ["prompt=text"]\r\nretry-errors = true\r\n'
    )
    values = shown("--config", tmp_path / "spectr.toml")
    assert [values[name] for name in ("batch-size", "top-p", "time-limit", "date", "column", "retry-errors")] == [
        2,
        1.0,
        60.0,
        "2024-02-29",
        [["prompt", "text"]],
        True,
    ]


def test_a_variable_that_is_no_option_is_told(batch, monkeypatch: pytest.MonkeyPatch):
    for name in ("SPECTR_BATCHSIZE", "SPECTR_BATCH_SIZE", "SPECTR_CONFIG", "SPECTRE", "SPECTR_OUTPUT"):
        monkeypatch.setenv(name, "")
    result = batch("run", "b", "i", "-o", "run", "--print-config")
    assert result.code == 0
    assert result.err == (
        "spectr-batch: warning: SPECTR_BATCHSIZE is set, but there is no option of that name; "
        "see `spectr-batch run --help`\n"
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("1.5", 1.5),
        ("20s", 20),
        ("15m", 900),
        ("3h50m", 13_800),
        ("1d2h", 93_600),
        ("1-02:30:00", 95_400),
        ("0:00:10", 10),
    ],
)
def test_durations_are_read_as_schedulers_and_people_write_them(text: str, seconds: float):
    assert clock.parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "1x", "-5", "1:00", "m"])
def test_other_texts_are_no_durations(text: str):
    with pytest.raises(ValueError, match="allowed seconds, or a time like"):
        clock.parse_duration(text)


@pytest.mark.parametrize(("seconds", "text"), [(4.21, "4.2 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_are_shown_as_people_read_them(seconds: float, text: str):
    assert clock.show_duration(seconds) == text
