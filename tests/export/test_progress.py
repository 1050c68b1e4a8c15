from __future__ import annotations

from types import SimpleNamespace

import pytest

from spectr_export.compiled.progress import BuildProgress, make_monitor


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class MonitorBase:
    """A stand-in for the class from which TensorRT's monitors derive."""


TRT = SimpleNamespace(IProgressMonitor=MonitorBase)


def test_steps_of_inner_phases_are_parts_of_the_step_around_them() -> None:
    progress = BuildProgress("target", print)
    assert progress.fraction == 0
    progress.start("build", None, 4)
    progress.step("build")
    assert progress.fraction == 0.25
    progress.start("optimize", "build", 10)
    for _ in range(5):
        progress.step("optimize")
    assert progress.fraction == 0.25 + 0.25 * 0.5
    progress.start("time", "optimize", 2)
    progress.step("time")
    assert progress.fraction == pytest.approx(0.25 + 0.25 * 0.55)
    progress.finish("time")
    progress.finish("optimize")
    assert progress.fraction == pytest.approx(0.25 + 0.25 * 0.55)
    progress.step("build")
    assert progress.fraction == 0.5
    progress.step("of another builder")
    assert progress.fraction == 0.5


def test_a_phase_that_reports_too_many_steps_is_done_and_no_more() -> None:
    progress = BuildProgress("target", print)
    progress.start("build", None, 1)
    progress.start("inner", "build", 1)
    progress.step("inner")
    progress.step("inner")
    assert progress.fraction == 1


def test_a_line_is_said_when_five_seconds_have_passed() -> None:
    lines: list[str] = []
    clock = Clock()
    progress = BuildProgress("target", lines.append, clock)
    progress.start("Building engine", None, 4)
    progress.step("Building engine")
    assert lines == []
    clock.now = 5.0
    progress.step("Building engine")
    clock.now = 9.9
    progress.step("Building engine")
    assert lines == ["target: 50%, building engine"]
    clock.now = 10.0
    progress.start("Timing", "Building engine", 3)
    assert lines[1:] == ["target: 75%, timing"]


def test_the_monitor_hands_phases_on() -> None:
    progress = BuildProgress("target", print)
    monitor = make_monitor(TRT, progress)
    monitor.phase_start("build", None, 2)
    assert monitor.step_complete("build", 0) is True
    assert progress.fraction == 0.5
    monitor.phase_finish("build")
    assert progress.fraction == 0.5
    monitor.phase_start("build", None, 2)
    assert progress.fraction == 0


def test_an_interrupt_inside_a_report_ends_the_build_and_leaves_the_library_alone() -> None:
    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    clock = Clock()
    progress = BuildProgress("target", interrupt, clock)
    monitor = make_monitor(TRT, progress)
    monitor.phase_start("build", None, 2)
    clock.now = 5.0
    assert monitor.step_complete("build", 0) is False
    assert progress.interrupted
    monitor.phase_finish("build")
