"""Stopping: signals and time limits, first gently, then at once.

While rows are decoded, the first signal closes the intake and gives the rows in flight some seconds; everywhere else it
ends the process, and a second one always does. Every instant is safe: what is written stays, what is not is done again.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from types import FrameType

from spectr_jobs.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


# Signal handlers raise these wherever the process is, mostly in a call of a library, around which any ``Exception`` is
# caught and told as that library's failure; so they are none.
class Ended(BaseException):
    """A signal ends the process."""


class DrainOver(BaseException):
    """The time for rows in flight is over. Raised inside ``Stop.gently`` only."""


class Stop:
    """Tells the decoding loop when to stop.

    Attributes:
        reason: Why the intake is closed; nothing while it is open.
    """

    def __init__(self) -> None:
        """Start the clock of the time limit; call ``install`` to listen."""
        self.reason: str | None = None
        self._started = time.monotonic()
        self._drain_timeout = 0.0
        self._gentle = False
        self._signalled = False

    def install(self) -> None:
        """Listen to the signals of schedulers and terminals."""
        for number in SIGNALS:
            signal.signal(number, self._on_signal)

    def arm(self, drain_timeout: float, time_limit: float | None) -> None:
        """Set the times.

        Args:
            drain_timeout: Seconds that rows in flight get after the intake is closed.
            time_limit: Seconds after the start of the process when all must be over; none for no limit.
        """
        self._drain_timeout = drain_timeout
        if time_limit is not None:
            signal.signal(signal.SIGALRM, self._on_alarm)
            left = time_limit - drain_timeout - (time.monotonic() - self._started)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-6))

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
        if self._signalled:
            os._exit(Interrupted.exit_code)
        self._signalled = True
        self._close(signal.Signals(number).name)

    def _on_alarm(self, number: int, frame: FrameType | None) -> None:
        if self.reason is None:
            self._close("the time limit")
        elif self._gentle:
            raise DrainOver

    def _close(self, reason: str) -> None:
        self.reason = self.reason or reason
        if not self._gentle:
            raise Ended(f"interrupted by {reason}. {CONTINUE}")
        signal.signal(signal.SIGALRM, self._on_alarm)
        signal.setitimer(signal.ITIMER_REAL, max(self._drain_timeout, 1e-6))


CONTINUE = "Run the same command again to go on."
