"""What a run needs of a driver."""

from __future__ import annotations

from typing import BinaryIO, Protocol

from spectr_jobs.drivers.rank import Rank
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import Stop
from spectr_runtime import Bundle


class Driver(Protocol):
    """Sees to it that shards are decoded."""

    @property
    def rank(self) -> Rank:
        """Whose shards it sees to."""
        ...

    def decode(self, run: RunDirectory, bundle: Bundle, how: Setup, stop: Stop, echo: BinaryIO | None) -> None:
        """Decode what is left of these shards.

        Args:
            run: The run directory.
            bundle: Its bundle.
            how: How to decode.
            stop: Says when to stop.
            echo: Where every row goes beside its shard, if anywhere.

        Raises:
            Interrupted: It was stopped, or another process has some of the shards.
        """
        ...
