"""Reports how far TensorRT has come with an engine.

TensorRT announces nested phases of so many steps each. ``BuildProgress`` makes one fraction of them and now and then
says a line such as ``target: 42%, timing kernels``.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from spectr_export.console import Say

SECONDS = 5.0  # at least, between two lines


@dataclasses.dataclass(slots=True)
class _Phase:
    """A phase that has begun and has not ended; ``steps`` is the number announced, ``done`` the number finished."""

    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Follows the phases that a builder reports, from any thread.

    Args:
        label: Name of the engine that is built, with which every line begins.
        say: Takes a line of progress, at most one every ``SECONDS``.
        clock: Returns seconds since some fixed moment.

    Attributes:
        interrupted: Whether the user has interrupted the build.
    """

    def __init__(self, label: str, say: Say, clock: Callable[[], float] = time.monotonic) -> None:
        self.interrupted = False
        self._label = label
        self._say = say
        self._clock = clock
        self._said = clock()
        self._reached = 0.0
        self._phases: dict[str, _Phase] = {}
        self._lock = threading.Lock()

    def start(self, name: str, parent: str | None, steps: int) -> None:
        """Note that a phase of so many steps begins inside its parent; the outermost phase has no parent."""
        with self._lock:
            if parent is None:
                self._reached = 0.0
            self._phases[name] = _Phase(parent, max(1, steps))
            self._tell(name)

    def step(self, name: str) -> None:
        """Note that a step of a phase is done."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done += 1
                self._tell(name)

    def finish(self, name: str) -> None:
        """Note that a phase is done."""
        with self._lock:
            self._phases.pop(name, None)

    @property
    def fraction(self) -> float:
        """The part of the outermost phase that is done; an inner phase counts as a part of its parent's current step.

        The fraction never falls, although a builder may end a phase before it reports the step that the phase belongs
        to, or begin more phases than it announced steps.
        """
        roots = [name for name, phase in self._phases.items() if phase.parent not in self._phases]
        self._reached = max([self._reached, *map(self._done, roots[:1])])
        return self._reached

    def _done(self, name: str) -> float:
        phase = self._phases[name]
        inner = sum(self._done(child) for child, other in self._phases.items() if other.parent == name)
        return min(1.0, (phase.done + inner) / phase.steps)

    def _tell(self, name: str) -> None:
        if self._clock() - self._said >= SECONDS:
            self._said = self._clock()
            self._say(f"{self._label}: {self.fraction:.0%}, {name.lower()}")


def make_monitor(trt: Any, progress: BuildProgress) -> Any:
    """Return a progress monitor of TensorRT that reports to ``progress``.

    Python runs its signal handlers inside the monitor's methods, which TensorRT calls from C++ and from which no
    exception may leave. So an interrupt is noted in ``progress.interrupted``, and the next step tells TensorRT to stop.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._run(lambda: progress.start(phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._run(lambda: progress.step(phase_name))
            return not progress.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self._run(lambda: progress.finish(phase_name))

        def _run(self, report: Callable[[], None]) -> None:
            try:
                report()
            except KeyboardInterrupt:
                progress.interrupted = True

    return Monitor()
