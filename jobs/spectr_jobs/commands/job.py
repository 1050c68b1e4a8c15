"""A job: what is decoded, with what, and into what; everything that the command line of a run says of it."""

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
    """What a run is to do. Who decodes (the driver) and until when (the stop) are told beside it.

    Attributes:
        bundle: Folder of the bundle.
        inputs: Paths, folders, patterns and URLs of the inputs; ``-`` for standard input.
        columns: Columns of tables by the fields that they stand for.
        output: The run directory, or ``-`` to write rows to stdout and keep nothing.
        setup: How rows are decoded.
        sampling: Sampling parameters of records that do not set their own.
        seed: The run seed, from which and the record's id a row follows.
        limit: Take only so many records, from the first on; None for all.
        shard_size: Records per shard.
        compress: ``zst`` if what is sealed and merged is compressed.
        mirror: URL of a copy of the run in an object store, if one is kept.
        retry_errors: Whether records are decoded again whose failure may not come again.
        max_error_rate: Share of failed records, 0 to 1, up to which the run has gone well.
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
        """Return what a run of this job and its continuations must agree on."""
        return Terms(bundle.sha256, self.seed, self.sampling, self.limit, self.shard_size, self.compress)
