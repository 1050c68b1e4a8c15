"""How much time decoding spends in each of its phases."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

ROUND = ("draft", "verify", "select", "commit")  # the phases of a round


@dataclasses.dataclass(slots=True)
class Timing:
    """Seconds spent so far in each phase of decoding.

    A GPU works on while the host goes on to the next phase, so a phase counts the time that the host spent in it,
    waiting included. The phases of rounds that are replayed share the time that nothing else took.
    """

    prefill: float = 0.0
    lookup: float = 0.0
    draft: float = 0.0
    verify: float = 0.0
    select: float = 0.0
    commit: float = 0.0
    host: float = 0.0

    @contextlib.contextmanager
    def measure(self, phase: str) -> Iterator[None]:
        """Add the duration of the block to the phase of this name."""
        started = self._now()
        try:
            yield
        finally:
            self.add(phase, self._now() - started)

    def add(self, phase: str, seconds: float) -> None:
        """Add some seconds to the phase of this name."""
        setattr(self, phase, getattr(self, phase) + seconds)

    @property
    def beside(self) -> float:
        """The seconds of all that is not a phase of a round."""
        return self.prefill + self.lookup + self.host

    def shares(self) -> Timing:
        """Return the shares that the phases of a round have in its time."""
        total = sum(getattr(self, phase) for phase in ROUND) or 1.0
        return Timing(**{phase: getattr(self, phase) / total for phase in ROUND})

    def _now(self) -> float:
        return time.perf_counter()


class DeviceTiming(Timing):
    """The same, where each phase counts the time of the device: it is waited for at both ends.

    Args:
        settle: Waits for the device.
    """

    def __init__(self, settle: Callable[[], None]) -> None:
        super().__init__()
        self._settle = settle

    def _now(self) -> float:
        self._settle()
        return time.perf_counter()


@dataclasses.dataclass(slots=True)
class PlainTime:
    """Rounds beside those of plain decoding, as far as is known what such rounds cost.

    Attributes:
        rounds: The number of these rounds.
        spent: The seconds that they took.
        plain: The seconds that plain decoding is expected to take for the tokens that they wrote: one round for each
            token of a row, with as many rows.
    """

    rounds: int = 0
    spent: float = 0.0
    plain: float = 0.0

    def add(self, spent: float, plain: float) -> None:
        """Count a round."""
        self.rounds += 1
        self.spent += spent
        self.plain += plain


class Spent(NamedTuple):
    """The seconds that a round took: all of them, those of drafting, and those of the target's pass."""

    total: float
    draft: float
    verify: float
