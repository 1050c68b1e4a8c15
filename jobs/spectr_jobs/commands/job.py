"""A job: which inputs are decoded with which bundle into which run directory, and how."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

from spectr_jobs.run_directory.manifest import Terms
from spectr_jobs.work.setup import Setup
from spectr_runtime.bundle import Bundle
from spectr_runtime.rows.request import SamplingParams

STDOUT = "-"  # as output: rows go to stdout, and nothing is kept


@dataclasses.dataclass(frozen=True, slots=True)
class Job:
    """Everything that the command line says of a run, except for the driver and the stop.

    Attributes:
        bundle: Folder of the bundle.
        inputs: Paths, folders, patterns and URLs of the inputs; ``-`` for standard input.
        columns: The column of a table for every field that has another name there.
        output: The run directory, or ``-`` to write rows to stdout and keep nothing.
        setup: How rows are decoded.
        sampling: Sampling parameters of records that do not set their own.
        seed: The run seed. Seed and id of a record determine the record's row.
        limit: Number of records to decode, from the first on; None for all.
        shard_size: Records per shard.
        compress: ``zst`` if sealed shards and merged files are compressed.
        mirror: URL of a copy of the run in an object store; None for no copy.
        retry_errors: Whether to decode failed records again whose failure may not recur.
        max_error_rate: Largest share of failed records, 0 to 1, with which the run is a success.
    """

    bundle: Path
    inputs: tuple[str, ...]
    columns: Mapping[str, str]
    output: str
    setup: Setup
    sampling: SamplingParams
    seed: int
    limit: int | None
    shard_size: int
    compress: str | None
    mirror: str | None
    retry_errors: bool
    max_error_rate: float

    def terms(self, bundle: Bundle) -> Terms:
        """Return the values that every command that continues the run must repeat."""
        return Terms(bundle.sha256, self.seed, self.sampling, self.limit, self.shard_size, self.compress)
