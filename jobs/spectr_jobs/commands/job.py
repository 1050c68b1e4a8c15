"""A job: which inputs are decoded with which bundle into which run directory, and how."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path

from spectr_jobs.run_directory.manifest import DEFAULTS, Terms
from spectr_jobs.work.setup import Setup
from spectr_runtime.bundle import Bundle
from spectr_runtime.errors import BundleError, RequestError
from spectr_runtime.rows.request import SamplingParams

MODEL = "model"  # as sampling defaults: those of the bundle's model; the other choice is neutral
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
        sampling: Sampling parameters that were given for records that do not set their own.
        sampling_defaults: ``model`` if the model's own parameters, which its bundle holds, stand in for those that were
            not given; ``neutral`` if they do not.
        seed: The run seed. Seed and id of a record determine the record's row.
        date: The day that chat templates are told; None for the day of the run, which is today if it is new.
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
    sampling: Mapping[str, float]
    sampling_defaults: str
    seed: int
    date: datetime.date | None
    limit: int | None
    shard_size: int
    compress: str | None
    mirror: str | None
    retry_errors: bool
    max_error_rate: float

    def terms(self, bundle: Bundle) -> Terms:
        """Return the values that every command that continues the run must repeat."""
        return Terms(
            bundle_sha256=bundle.sha256,
            seed=self.seed,
            sampling=self.defaults(bundle),
            date=self.date,
            limit=self.limit,
            shard_size=self.shard_size,
            compress=self.compress,
            call_shape=self.setup.call_shape,
        )

    def defaults(self, bundle: Bundle) -> SamplingParams:
        """Return the sampling parameters of records that do not set their own.

        Raises:
            BundleError: The bundle holds a parameter that there is not, or a value outside its range.
        """
        try:
            return SamplingParams(**{**self._of_model(bundle), **self.sampling})  # type: ignore[arg-type]
        except (RequestError, TypeError) as error:
            raise BundleError(
                f"The sampling parameters of {bundle.path} are malformed: {error}", hint="Build the bundle again."
            ) from error

    def describe_defaults(self, bundle: Bundle) -> str:
        """Return, in a line for a person, what records are given that do not set their own sampling parameters."""
        params, neutral, own = self.defaults(bundle), SamplingParams(), self._of_model(bundle)
        told = [
            f"{name} {getattr(params, name):g}{' (of the model)' if name in own and name not in self.sampling else ''}"
            for name in DEFAULTS
            if name in ("max_tokens", "temperature") or getattr(params, name) != getattr(neutral, name)
        ]
        return f"defaults of records: {', '.join(told)}"

    def _of_model(self, bundle: Bundle) -> Mapping[str, float]:
        return bundle.manifest.sampling if self.sampling_defaults == MODEL else {}
