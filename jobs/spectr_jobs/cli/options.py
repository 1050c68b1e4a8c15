"""The values of the parameters of ``spectr-batch run`` as one object."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from spectr_jobs.cli.types import ROWS, CallShape
from spectr_jobs.clock import show_duration
from spectr_runtime.errors import RequestError, UsageError
from spectr_runtime.rows.drafting import CORPUS, DRAFT, TEXTS
from spectr_runtime.rows.request import SamplingParams

if TYPE_CHECKING:
    from spectr_jobs.commands.job import Job
    from spectr_jobs.drivers.rank import Rank
    from spectr_jobs.work.setup import BatchChoice
    from spectr_runtime.backends import Backend
    from spectr_runtime.rows.drafting import SourceName
    from spectr_runtime.speculation.plan import PlanChoice

# Defaults of a fixed plan, if at least one of its options is given; docs/benchmarks.md compares plans at equal budget.
PATHS_RULE, PATH_RULE, LOOKED_UP_RULE = "kseq", "block", "race"  # of several paths, of one, of what is looked up
ONE_PATH = ("single", "block", "race")  # rules that are given one path
PATHS, LENGTH = 2, 8  # paths of the other rules; tokens of a path


@dataclasses.dataclass(frozen=True, slots=True)
class RunOptions:
    """The values of the parameters of ``spectr-batch run``, one field each; see ``spectr_jobs.cli.run``."""

    bundle: Path
    inputs: tuple[str, ...]
    output: str
    rule: str | None
    drafts: int | None
    length: int | None
    source: SourceName | None
    corpus: Path | None
    plan: str | None
    batch_size: BatchChoice
    call_shape: CallShape | None
    seed: int
    backend: Backend
    device: str
    max_tokens: int
    temperature: float | None
    top_p: float | None
    top_k: int | None
    min_p: float | None
    repetition_penalty: float | None
    sampling_defaults: str
    date: datetime.date | None
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
        self.refuse_short_time()
        sampling = self.sampling()  # refused before torch is loaded, which takes seconds
        self.refuse_idle_corpus()
        self.refuse_call_shape()
        plan, shape = self.choose_plan(), self.call_shape
        from spectr_jobs.commands.job import Job
        from spectr_jobs.work.setup import Setup

        return Job(
            bundle=self.bundle,
            inputs=self.inputs,
            columns=dict(self.column),
            output=self.output,
            setup=Setup(
                plan,
                self.batch_size if shape is None else shape.rows,
                self.backend,
                self.device,
                corpus=self.corpus,
                call_tokens=None if shape is None else shape.tokens,
            ),
            sampling=sampling,
            sampling_defaults=self.sampling_defaults,
            seed=self.seed,
            date=self.date,
            limit=self.limit,
            shard_size=self.shard_size,
            compress=self.compress,
            mirror=self.mirror,
            retry_errors=self.retry_errors,
            max_error_rate=self.max_error_rate,
        )

    def sampling(self) -> Mapping[str, float]:
        """Return the sampling parameters that the options give to records that do not set their own.

        Raises:
            UsageError: A value is out of range.
        """
        options = {
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
        }
        given = {name: value for name, value in options.items() if value is not None}
        try:
            SamplingParams(**given)  # type: ignore[arg-type]
            return given
        except RequestError as error:
            option = (error.param or "").replace("_", "-")
            raise UsageError(f"--{option}: {error.message}") from error

    def refuse_short_time(self) -> None:
        """Refuse a time limit that leaves no time to decode before the drain.

        Raises:
            UsageError: The limit is not longer than the drain.
        """
        if self.time_limit is not None and self.time_limit <= self.drain_timeout:
            raise UsageError(
                f"--time-limit is {show_duration(self.time_limit)}, but rows in flight get "
                f"{show_duration(self.drain_timeout)} of it to finish; allowed is a longer limit.",
                hint="Raise --time-limit, or lower --drain-timeout.",
            )

    def refuse_two_plans(self) -> None:
        """Refuse a plan beside the options of a fixed plan.

        Raises:
            UsageError: Names the options that exclude each other.
        """
        given = self._fixed_plan()
        if self.plan is not None and given:
            message = f"--plan {self.plan} and {', '.join(given)} exclude each other."
            raise UsageError(message, hint="Leave one of them out.")

    def refuse_idle_corpus(self) -> None:
        """Refuse a corpus beside a plan that looks in none.

        Raises:
            UsageError: Names the option that chooses the plan.
        """
        fixed = self._fixed_plan()
        if self.corpus is None or self.source in (CORPUS, TEXTS) or (not fixed and self.plan != "plain"):
            return
        plan = f"a plan of {', '.join(fixed)} with the source {self.source or DRAFT}" if fixed else "--plan plain"
        raise UsageError(
            f"--corpus {self.corpus}: {plan} looks in no corpus.",
            hint=f"Use --plan auto, --source {CORPUS} or --source {TEXTS}, or leave it out.",
        )

    def refuse_call_shape(self) -> None:
        """Refuse a shape of calls beside a number of rows, or one that the trees of a fixed plan do not fit into.

        The menu of the automatic plan is known when the bundle is; ``check_call_tokens`` checks that.

        Raises:
            UsageError: Names the options.
        """
        shape, fixed = self.call_shape, self._fixed_plan()
        if shape is None:
            return
        if self.batch_size != ROWS:
            raise UsageError(
                f"--call-shape {shape} and --batch-size {self.batch_size} exclude each other: the shape says how many "
                "rows are decoded together.",
                hint="Leave --batch-size out.",
            )
        _, drafts, length = self._fixed_sizes()
        if fixed and shape.tokens < (needed := drafts * length + 1):
            raise UsageError(
                f"--call-shape {shape} has {shape.tokens} tokens a row; allowed are {needed} or more, for K={drafts} "
                f"drafts of length L={length} and the last token of the text.",
                hint=f"Use --call-shape {CallShape(shape.rows, needed)}.",
            )

    def choose_plan(self) -> PlanChoice:
        """Return the plan that the options choose.

        Raises:
            UsageError: The options exclude each other, or the rule does not allow K or L.
        """
        self.refuse_two_plans()
        from spectr_runtime.speculation.plan import AUTO, PLAIN, Plan

        if self._fixed_plan():
            return Plan(*self._fixed_sizes(), self.source or DRAFT)
        return Plan.plain() if self.plan == PLAIN else AUTO

    def _fixed_plan(self) -> list[str]:
        options = {"--rule": self.rule, "--drafts": self.drafts, "--length": self.length, "--source": self.source}
        return [name for name, value in options.items() if value is not None]

    def _fixed_sizes(self) -> tuple[str, int, int]:
        """Return the rule, the number of paths and the length of a path of a fixed plan."""
        rule = self.rule or (LOOKED_UP_RULE if self.source not in (None, DRAFT) else None)
        drafts = self.drafts or (1 if rule in (None, *ONE_PATH) else PATHS)
        return rule or (PATH_RULE if drafts == 1 else PATHS_RULE), drafts, self.length or LENGTH

    def find_rank(self, environment: Mapping[str, str]) -> Rank:
        """Return the rank of this process, which the options or the variables of a scheduler set.

        Args:
            environment: The environment variables of the process.

        Raises:
            UsageError: The rank is incomplete, or lies outside its world.
        """
        from spectr_jobs.drivers.rank import detect

        return detect(self.rank, self.world, environment)
