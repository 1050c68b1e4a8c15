"""The driver: what a run needs of whoever sees to it that its shards are decoded."""

from __future__ import annotations

from typing import BinaryIO, Protocol

from spectr_jobs.drivers.rank import Rank
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import Stop
from spectr_runtime.bundle import Bundle


class Driver(Protocol):
    """Sees to it that shards are decoded."""

    @property
    def rank(self) -> Rank:
        """The rank whose shards the driver sees to."""
        ...

    def decode(self, run: RunDirectory, bundle: Bundle, setup: Setup, stop: Stop, echo: BinaryIO | None) -> None:
        """Decode what is left of these shards.

        Args:
            run: The run directory.
            bundle: The run's bundle.
            setup: How to decode.
            stop: Says when to stop.
            echo: Where every row goes beside its shard, if anywhere.

        Raises:
            Interrupted: The work was stopped, or another process has some of the shards.
        """
        ...
