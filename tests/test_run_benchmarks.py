"""``benchmarks/run.py``: every script has its step, small runs write no result, and a failing step stops no other."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner
from scripts import ROOT, load_script

SCRIPTS = {
    path.stem: text
    for path in (ROOT / "benchmarks").glob("*.py")
    if 'if __name__ == "__main__":' in (text := path.read_text(encoding="utf-8"))
}
PLACES = {"pair", "demo", "headed", "checkpoint", "prompts", "folder", "out"}


@pytest.fixture
def benchmarks() -> ModuleType:
    return load_script("benchmarks/run.py")


def test_every_script_has_one_step(benchmarks: ModuleType) -> None:
    assert sorted(step.name for step in benchmarks.STEPS) == sorted(SCRIPTS.keys() - {"run"})


@pytest.mark.parametrize(
    ("step", "read"), [("budget", ("regret", "selection", "gpu")), ("growth", ("memory",)), ("shapes", ("regret",))]
)
def test_what_a_step_reads_is_recorded_before_it(benchmarks: ModuleType, step: str, read: tuple[str, ...]) -> None:
    order = [one.name for one in benchmarks.STEPS]
    assert all(order.index(one) < order.index(step) for one in read)


def test_commands_name_what_there_is(benchmarks: ModuleType) -> None:
    for step in benchmarks.STEPS:
        assert step.reason or (step.small and step.full), step.name
        assert set(step.needs) <= benchmarks.NEEDS.keys()
        for command in (*step.small, *step.full):
            program = shlex.split(command)[0]
            assert set(re.findall(r"{(\w+)}", command)) <= PLACES
            assert program in {"spectr-export", "spectr-batch"} or (
                (ROOT / program).exists() if "/" in program else program.removesuffix(".py") in SCRIPTS
            )


def test_small_runs_write_no_result(benchmarks: ModuleType) -> None:
    for step in benchmarks.STEPS:
        for command in step.small:
            program, *arguments = shlex.split(command)
            if '"--output"' in SCRIPTS.get(program.removesuffix(".py"), ""):
                assert arguments[-2:] == ["--output", "{out}"], command
            else:
                assert "{folder}" in command or command == "quote.py --check", command


def test_places_that_are_absent_and_things_that_are_missing_are_told(benchmarks: ModuleType, tmp_path: Path) -> None:
    places = {"pair": tmp_path, "demo": tmp_path / "gone", "checkpoint": None}
    step = benchmarks.Step("draw", ("draw.py {pair}",), ("draw.py {demo} {checkpoint}",), reason="too long")
    assert benchmarks.missing(step, step.small, places) == ""
    assert benchmarks.missing(step, step.full, places) == "no demo and no checkpoint"
    assert benchmarks.missing(step, (), places) == "too long"


def test_a_step_that_fails_stops_no_other_and_shows_its_end(
    benchmarks: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.py").write_text("raise SystemExit('it broke')\n")
    (tmp_path / "good.py").write_text("import sys; open(sys.argv[1], 'w').close()\n")
    bad, good = (f"{tmp_path}/{name}.py {{out}}" for name in ("bad", "good"))
    steps = (
        benchmarks.Step("bad", (bad, f"{good}x")),
        benchmarks.Step("good", (good,)),
        benchmarks.Step("none", reason="why not"),
    )
    monkeypatch.setattr(benchmarks, "STEPS", steps)
    done = CliRunner().invoke(benchmarks.main, ["--pair", str(tmp_path)])
    assert done.exit_code == 1
    assert "it broke" in done.output
    table = [line.split() for line in done.stdout.split("\n\n")[-1].splitlines()]
    assert [[line[0], *line[-2:]] for line in table[:2]] == [["bad", "exit", "1"], ["good", "exit", "0"]]
    assert table[2] == ["none", "skipped:", "why", "not"]
