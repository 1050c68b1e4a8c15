"""A run, from a job to the exit code: ``spectr-batch run`` and ``spectr-batch submit ray`` both start it."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from spectr_jobs.commands.job import STDOUT, Job
from spectr_jobs.console import say
from spectr_jobs.drivers.driver import Driver
from spectr_jobs.drivers.rank import Rank
from spectr_jobs.extras import load
from spectr_jobs.inputs.sources import Source
from spectr_jobs.inputs.stdin import resolve_with_stdin
from spectr_jobs.inputs.stores import is_remote
from spectr_jobs.inputs.survey import InputFile, Survey, survey
from spectr_jobs.report import summary
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.layout import LOCK
from spectr_jobs.run_directory.lock import held
from spectr_jobs.run_directory.manifest import RunManifest, Terms
from spectr_jobs.run_directory.mirror import Mirror
from spectr_jobs.run_directory.provenance import versions
from spectr_jobs.run_directory.shard import reopen
from spectr_jobs.work.stop import Stop
from spectr_runtime.bundle import Bundle
from spectr_runtime.errors import UsageError

ALL_DONE, SOME_FAILED = 0, 3
SHAPES = {"openai": "OpenAI batch records", "simple": "simple records"}


def start(job: Job, driver: Driver, stop: Stop) -> int:
    """Decode a job's inputs into its run directory, or go on with one.

    Args:
        job: What to decode.
        driver: Who decodes.
        stop: Says when to stop.

    Returns:
        The exit code: 0 if every record was completed, 3 if too many failed.

    Raises:
        SpectrError: The run cannot start or cannot go on; the error owns the exit code.
    """
    if job.compress is not None:
        load("zstandard", "zstd", f"--compress {job.compress}")
    if job.output == STDOUT and job.mirror is not None:
        raise UsageError("-o - keeps nothing that --mirror could copy.", hint="Name a run directory.")
    mirror = None if job.mirror is None else Mirror(job.mirror)
    with _output(job.output) as (path, echo):
        bundle = Bundle.open(job.bundle)
        RunDirectory.reserve(path)
        if mirror is not None:
            with held(path / LOCK):
                mirror.fetch(path)
        alone, begun = driver.rank.world == 1, RunDirectory.is_begun(path)
        with resolve_with_stdin(job.inputs, path, job.columns, alone=alone, begun=begun) as inputs:
            run = prepare(path, bundle, inputs, job.terms(bundle))
        if job.retry_errors:
            retry(run, driver.rank)
        mine = driver.rank.shards(len(run.shards))
        with contextlib.nullcontext() if mirror is None else mirror.following(run, mine):
            driver.decode(run, bundle, job.setup, stop, echo)
            return conclude(run, driver.rank, job.max_error_rate, keep=echo is None)


@contextlib.contextmanager
def _output(output: str) -> Iterator[tuple[Path, BinaryIO | None]]:
    """Give the run directory, and where rows go beside it: for ``-`` a folder that is removed, and stdout."""
    if is_remote(output):
        message = f"The run directory {output} is a URL; it must be a folder, since rows are appended to files in it."
        raise UsageError(message, hint="Decode into a folder, and keep a copy there with --mirror.")
    if output != STDOUT:
        yield Path(output), None
        return
    with tempfile.TemporaryDirectory(prefix="spectr-") as folder:
        yield Path(folder), sys.stdout.buffer


def prepare(path: Path, bundle: Bundle, inputs: Sequence[Source], terms: Terms) -> RunDirectory:
    """Make the run directory, or open it and check that it was started with the same terms and inputs.

    Raises:
        UsageError: The run directory was started with others.
        InputError: The inputs hold no record, or an id twice.
    """

    def make() -> RunManifest:
        found = survey(inputs, terms.sampling, shard_size=terms.shard_size, limit=terms.limit)
        show_survey(found)
        return RunManifest(
            created=int(time.time()),
            bundle=str(bundle.path),
            terms=terms,
            files=found.files,
            records=found.records,
            bad=found.bad,
            shards=found.shards,
            versions=versions(),
        )

    run, made = RunDirectory.start(path, make)
    if made:
        return run
    files = tuple(InputFile.of(source, "simple", {}) for source in inputs)
    run.manifest.check(terms, files)
    return run.reading(inputs)


def show_survey(found: Survey) -> None:
    """Tell the user what the inputs hold."""
    for file in found.files:
        counts = ", ".join(f"{count:,} {SHAPES[shape]}" for shape, count in file.records.items())
        say(f"{file.path}: {counts}" if counts else f"warning: {file.path}: no record")
    for message in found.refusals:
        say(message)
    if found.bad:
        say(f"{found.bad:,} of {found.records:,} records cannot be decoded; they go to errors.jsonl")


def retry(run: RunDirectory, rank: Rank) -> None:
    """Take failures that may not come again out of a rank's shards, so that their records are decoded again."""
    count = sum(reopen(run.shard(number)) for number in rank.shards(len(run.shards)))
    say(f"{count:,} failed records are tried again")


def conclude(run: RunDirectory, rank: Rank, max_error_rate: float, *, keep: bool) -> int:
    """Merge if this was the last rank, tell how the run went, and return the exit code.

    Args:
        run: The run directory.
        rank: Whose shards count for the exit code.
        max_error_rate: Share of failed records up to which the run has gone well.
        keep: Whether the run directory stays.
    """
    tally = run.tally(rank.shards(len(run.shards)))
    if all(map(run.is_sealed, run.shards)):
        with held(run.lock):
            if not run.summary.exists():
                run.merge()
            run.merge_events()
            figures = summary.write(run)
        say("done\n" + summary.render(figures, run.files if keep else {}))
    else:
        say(f"{rank}: done, {tally.rows:,} rows, {tally.failed:,} failed; the last rank merges")
    records = tally.rows + tally.failed
    return SOME_FAILED if records and tally.failed / records > max_error_rate else ALL_DONE
