"""Where the time of a run goes."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator


@dataclasses.dataclass(slots=True)
class Timing:
    """Seconds spent so far in each phase of decoding.

    On a device that works asynchronously a phase is charged for what the host waited in it.
    """

    prefill: float = 0.0
    draft: float = 0.0
    verify: float = 0.0
    select: float = 0.0
    commit: float = 0.0
    host: float = 0.0

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the duration of the block to a phase."""
        started = time.perf_counter()
        try:
            yield
        finally:
            setattr(self, phase, getattr(self, phase) + time.perf_counter() - started)
