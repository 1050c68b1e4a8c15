"""Stopping: signals and time limits end the work, first gently, then at once.

While rows are decoded, the first signal or the time limit closes the intake: no more records are taken, and the rows in
flight get some seconds to finish. At any other time, the first signal ends the process. A second signal always does,
but for those that nobody repeats on purpose: a terminal that goes away sends SIGHUP several times, and a CPU limit
SIGXCPU once a second. A signal that was ignored when the process started, as ``nohup`` arranges, stays ignored.
Every instant is safe to stop at: rows that are written stay, all others are decoded again by the next session.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

from spectr_jobs.errors import Interrupted

REPEATED = (signal.SIGHUP, signal.SIGXCPU)  # come several times by themselves
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, *REPEATED)

# Seconds from the end of the drain to the end of the process, for what cannot be interrupted.
GRACE = 5.0


# Signal handlers raise these two wherever the process happens to be, mostly inside a call of a library. The callers of
# libraries turn any ``Exception`` into an error message about the library, so these two must not be an ``Exception``.
class Ended(BaseException):
    """A signal or the time limit ends the process."""


class DrainOver(BaseException):
    """The time for rows in flight is over. It is raised inside of ``Stop.gently`` only."""


class Stop:
    """Says when the decoding loop is to stop.

    Attributes:
        reason: The signal or the limit that closed the intake; None while the intake is open.
    """

    def __init__(self) -> None:
        """Start the clock of the time limit, and note which signals are ignored; ``install`` catches the others."""
        self.reason: str | None = None
        self._started = time.monotonic()
        self._drain_timeout = 0.0
        self._gentle = False
        self._signalled = False
        self._drained = False
        self._ignored = {number for number in SIGNALS if signal.getsignal(number) is signal.SIG_IGN}

    def install(self) -> None:
        """Catch the signals with which schedulers and terminals end a process."""
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN if number in self._ignored else self._on_signal)

    def arm(self, drain_timeout: float, time_limit: float | None) -> None:
        """Set the times, and start the alarm of the time limit.

        Args:
            drain_timeout: Seconds that rows in flight get after the intake is closed.
            time_limit: Seconds from the start of the clock to the end of the work, the drain included; None for no
                limit.
        """
        self._drain_timeout = drain_timeout
        if time_limit is not None:
            signal.signal(signal.SIGALRM, self._on_alarm)
            left = time_limit - drain_timeout - (time.monotonic() - self._started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-6))  # 0 would switch the alarm off

    @contextlib.contextmanager
    def gently(self) -> Iterator[None]:
        """While the block runs, the first signal closes the intake instead of ending the process."""
        self._gentle = True
        try:
            try:
                yield
            finally:
                self._gentle = False
        except DrainOver:
            pass
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._signalled and number in REPEATED:
            return
        if self._signalled:
            os._exit(Interrupted.exit_code)
        self._signalled = True
        self._close(signal.Signals(number).name)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if self.reason is None:
            self._close("the time limit")
        elif self._drained:  # something does not end by itself: the reading of a remote input, say
            os._exit(Interrupted.exit_code)
        elif self._gentle:
            self._drained = True
            signal.setitimer(signal.ITIMER_REAL, GRACE)
            raise DrainOver

    def _close(self, reason: str) -> None:
        self.reason = self.reason or reason
        if not self._gentle:
            raise Ended(f"interrupted by {reason}. {CONTINUE}")
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, max(self._drain_timeout, 1e-6))


CONTINUE = "Run the same command again to go on."
