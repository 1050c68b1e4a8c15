"""How far a TensorRT build is: its nested phases as one fraction, told now and then."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from typing import Any

from spectr_export.console import Say

SECONDS = 5.0  # between two lines


@dataclasses.dataclass(slots=True)
class _Phase:
    parent: str | None
    steps: int
    done: int = 0


class BuildProgress:
    """Follows the phases that a builder reports, from any thread.

    Args:
        label: What is being built.
        say: Takes a line, at most one every ``SECONDS``.
        clock: Seconds, from any start.
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
        """A phase of a number of steps begins inside its parent."""
        with self._lock:
            if parent is None:
                self._reached = 0.0
            self._phases[name] = _Phase(parent, max(1, steps))
            self._tell(name)

    def step(self, name: str) -> None:
        """A step of a phase is done."""
        with self._lock:
            if name in self._phases:
                self._phases[name].done += 1
                self._tell(name)

    def finish(self, name: str) -> None:
        """A phase is done."""
        with self._lock:
            self._phases.pop(name, None)

    @property
    def fraction(self) -> float:
        """Part of the outermost phase that is done, the steps of inner phases counted as parts of theirs.

        It never falls, though a builder may end a phase before it counts it, or begin more of them than it said.
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
    """TensorRT's progress monitor on a ``BuildProgress``.

    Python's signal handlers run inside these calls, where no exception may leave: an interrupt ends the build instead,
    and ``progress.interrupted`` tells so.
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
