"""The driver: what a run needs of the object that gets its shards decoded."""

from __future__ import annotations

from collections.abc import Collection
from typing import BinaryIO, Protocol

from spectr_jobs.drivers.rank import Rank
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import Stop
from spectr_runtime.bundle import Bundle


class Driver(Protocol):
    """Gets the shards of a rank decoded: ``Local`` in this process, ``Cluster`` by the actors of a Ray cluster."""

    @property
    def rank(self) -> Rank:
        """The rank whose shards the driver gets decoded."""
        ...

    def decode(
        self, run: RunDirectory, bundle: Bundle, setup: Setup, stop: Stop, echo: BinaryIO | None
    ) -> Collection[int]:
        """Decode the shards of the rank that are not sealed, and return when they are.

        Args:
            run: The run directory.
            bundle: The run's bundle.
            setup: The setup to decode with.
            stop: Says when to stop.
            echo: A stream that also receives every row; None for no stream.

        Returns:
            The shards of other ranks that were taken up besides.

        Raises:
            Interrupted: The work was stopped, or another process has some of the shards.
        """
        ...
