"""The values of the parameters of ``spectr-batch run`` as one object, and the types of these parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spectr_jobs.clock import parse_duration

if TYPE_CHECKING:
    from spectr_jobs.commands.job import Job
    from spectr_jobs.drivers.rank import Rank
    from spectr_runtime.backends import Backend


@dataclasses.dataclass(frozen=True, slots=True)
class RunOptions:
    """The values of the parameters of ``spectr-batch run``, one field each; see ``spectr_jobs.cli.run``."""

    bundle: Path
    inputs: tuple[str, ...]
    output: str
    rule: str | None
    drafts: int | None
    length: int | None
    plan: str | None
    batch_size: int
    seed: int
    backend: Backend
    device: str
    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    column: tuple[tuple[str, str], ...]
    limit: int | None
    shard_size: int
    rank: int | None
    world: int | None
    drain_timeout: float
    time_limit: float | None
    compress: str | None
    mirror: str | None
    retry_errors: bool
    max_error_rate: float
    dry_run: bool
    print_config: bool

    def job(self) -> Job:
        """Return the job that the values describe.

        Raises:
            UsageError: Two values exclude each other, or a value is out of range.
        """
        from spectr_jobs.commands.job import Job  # loads torch
        from spectr_jobs.work.setup import Setup, choose_plan, sampling_defaults

        plan = choose_plan(self.plan, self.rule, self.drafts, self.length)
        return Job(
            bundle=self.bundle,
            inputs=self.inputs,
            columns=dict(self.column),
            output=self.output,
            setup=Setup(plan, self.batch_size, self.backend, self.device),
            sampling=sampling_defaults(self.max_tokens, self.temperature, self.top_p, self.top_k),
            seed=self.seed,
            limit=self.limit,
            shard_size=self.shard_size,
            compress=self.compress,
            mirror=self.mirror,
            retry_errors=self.retry_errors,
            max_error_rate=self.max_error_rate,
        )

    def find_rank(self, environment: Mapping[str, str]) -> Rank:
        """Return the rank of this process, which the options or the variables of a scheduler set.

        Args:
            environment: The environment variables of the process.

        Raises:
            UsageError: The rank is incomplete, or lies outside its world.
        """
        from spectr_jobs.drivers.rank import detect

        return detect(self.rank, self.world, environment)


class Column(click.ParamType[tuple[str, str]]):
    """The type of a parameter ``FIELD=COLUMN``: a field of records, and the column of a table that holds it."""

    name = "column"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str]:
        """Return the field and the column."""
        if isinstance(value, tuple | list) and len(value) == 2:
            return str(value[0]), str(value[1])
        field, equals, column = str(value).partition("=")
        if not (field and equals and column):
            self.fail(f"got {value!r}, allowed FIELD=COLUMN, for instance prompt=question", param, ctx)
        return field, column


class Duration(click.ParamType[float]):
    """The type of a parameter that is a duration, for instance ``3h50m``."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the duration in seconds."""
        try:
            return parse_duration(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
