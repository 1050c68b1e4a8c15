"""A run, from a job to the exit code. Both ``spectr-batch run`` and ``spectr-batch submit ray`` call ``start``."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import datetime
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from spectr_jobs.records.record import Shape
from spectr_jobs.report import summary
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.layout import LOCK, STDIN
from spectr_jobs.run_directory.lock import held
from spectr_jobs.run_directory.manifest import RunManifest, Terms
from spectr_jobs.run_directory.mirror import Mirror
from spectr_jobs.run_directory.paths import keep_urls
from spectr_jobs.run_directory.provenance import versions
from spectr_jobs.run_directory.shard import reopen
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import Stop
from spectr_runtime.bundle import Bundle
from spectr_runtime.drafting.corpus import read_corpus
from spectr_runtime.errors import UsageError
from spectr_runtime.planning.planner import menu_of
from spectr_runtime.speculation.plan import AUTO, check_call_tokens

ALL_DONE, SOME_FAILED = 0, 3
SHOWN_FILES = 10  # more files are told in one line
SHAPES: Mapping[Shape, str] = {"openai": "OpenAI batch records", "simple": "simple records"}


def start(job: Job, driver: Driver, stop: Stop) -> int:
    """Decode a job's inputs into its run directory, which may be new or begun.

    Args:
        job: Inputs, bundle and run directory, and how to decode.
        driver: Decodes the shards of a rank.
        stop: Says when to stop.

    Returns:
        The exit code: 0 if the run is a success, 3 if too many records failed.

    Raises:
        SpectrError: The run cannot start or cannot continue; the error carries the exit code.
    """
    if job.compress is not None:
        load("zstandard", "zstd", f"--compress {job.compress}")  # fail now, not when the first shard is sealed
    if job.output == STDOUT and job.mirror is not None:
        raise UsageError("-o - keeps no run directory that --mirror could copy.", hint="Name a run directory.")
    mirror = None if job.mirror is None else Mirror(job.mirror)
    with _output(job.output) as (path, echo):
        bundle = Bundle.open(job.bundle)
        setup = job.setup
        check_setup(setup, bundle)
        RunDirectory.reserve(path)
        if mirror is not None:
            with held(path / LOCK):
                mirror.fetch(path)
        alone, begun = driver.rank.world == 1, RunDirectory.is_begun(path)
        with resolve_with_stdin(job.inputs, path / STDIN, job.columns, alone=alone, begun=begun) as inputs:
            run = prepare(path, bundle, inputs, job.terms(bundle))
        say(f"{job.describe_defaults(bundle)}; date {run.manifest.date}")
        if job.retry_errors:
            retry(run, driver.rank)
        mine = driver.rank.shards(len(run.shards))
        with contextlib.nullcontext() if mirror is None else mirror.following(run, mine):
            taken = driver.decode(run, bundle, setup, stop, echo)
            return conclude(run, driver.rank, {*mine, *taken}, job.max_error_rate, keep=echo is None)


def check_setup(setup: Setup, bundle: Bundle) -> None:
    """Check that what the plan drafts from is there, and tell the user what is done without a draft.

    Raises:
        UsageError: The plan needs the draft model, and the bundle has none; its trees do not fit into calls of one
            shape; or the corpus cannot be read.
    """
    check_call_tokens(setup.call_tokens, menu_of(setup.plan, bundle.manifest))
    if setup.corpus is not None:
        collections.deque(read_corpus(setup.corpus, str.encode), maxlen=0)  # it is read, and nothing is kept
    if setup.plan == AUTO and not bundle.manifest.has_draft:
        say("the bundle has no draft: drafts are looked up in the row's own text and in rows that were finished before")


@contextlib.contextmanager
def _output(output: str) -> Iterator[tuple[Path, BinaryIO | None]]:
    """Give the path of the run directory, and the stream that also receives every row.

    For ``-``, these are a temporary folder and stdout; otherwise there is no stream.
    """
    if is_remote(output):
        message = f"The run directory {output} is a URL; it must be a folder, since rows are appended to files in it."
        raise UsageError(message, hint="Decode into a folder, and keep a copy there with --mirror.")
    if output != STDOUT:
        yield Path(output), None
        return
    if sys.stdout is None:
        raise UsageError("-o - writes rows to stdout, which is closed.", hint="Name a run directory.")
    with tempfile.TemporaryDirectory(prefix="spectr-") as folder:
        yield Path(folder), sys.stdout.buffer


def prepare(path: Path, bundle: Bundle, inputs: Sequence[Source], terms: Terms) -> RunDirectory:
    """Start a run directory, or open one and check that it was started with the same terms and inputs.

    Args:
        path: The folder, reserved.
        bundle: The bundle.
        inputs: The inputs of this command.
        terms: The terms of this command.

    Raises:
        UsageError: The run directory was started with other terms or inputs.
        InputError: The inputs hold no record, or two records with one id.
    """

    def survey_inputs() -> RunManifest:
        found = survey(inputs, terms.sampling, shard_size=terms.shard_size, limit=terms.limit)
        show_survey(found)
        return RunManifest(
            created=int(time.time()),
            bundle=str(bundle.path),
            terms=terms if terms.date else dataclasses.replace(terms, date=datetime.date.today()),
            files=found.files,
            records=found.records,
            bad=found.bad,
            shards=found.shards,
            versions=versions(),
        )

    run, made = RunDirectory.start(path, survey_inputs)
    if not made:
        # Only fingerprints are compared, so the shape and the counts of the records need not be known.
        run.manifest.check(terms, tuple(InputFile.of(source, "simple", {}) for source in inputs))
    keep_urls([source.path for source in inputs], path)
    return run.reading(inputs)


def show_survey(found: Survey) -> None:
    """Show the user how many records the inputs hold, and the first ones that cannot be decoded."""
    told, empty = found.files, [file.path for file in found.files if not file.records]
    if len(told) > SHOWN_FILES:
        total: Counter[Shape] = sum((Counter(file.records) for file in told), Counter())
        say(f"{len(told):,} files: {_counts(total)}")
    else:
        for file in told:
            if file.records:
                say(f"{file.path}: {_counts(file.records)}")
    if empty:
        more = f" and {len(empty) - 1:,} more files" if len(empty) > 1 else ""
        say(f"warning: {empty[0]}{more}: no record")
    for message in found.refusals:
        say(message)
    if found.bad:
        say(f"{found.bad:,} of {found.records:,} records cannot be decoded; they go to errors.jsonl")


def _counts(records: Mapping[Shape, int]) -> str:
    return ", ".join(f"{count:,} {SHAPES[shape]}" for shape, count in records.items())


def retry(run: RunDirectory, rank: Rank) -> None:
    """Remove failures that may not recur from a rank's shards, so that their records are decoded again."""
    count = sum(reopen(run.shard(number)) for number in rank.shards(len(run.shards)))
    say(f"{count:,} failed records are tried again")


def conclude(run: RunDirectory, rank: Rank, shards: Iterable[int], max_error_rate: float, *, keep: bool) -> int:
    """Merge the shards if all of them are sealed, show the summary, and return the exit code.

    Args:
        run: The run directory.
        rank: The rank of this process.
        shards: Those of the rank, and others that it took: they decide on the exit code.
        max_error_rate: Largest share of failed records, 0 to 1, with which the run is a success.
        keep: Whether the run directory is kept, so that its files can be shown.
    """
    tally = run.tally(shards)
    if all(map(run.is_sealed, run.shards)):
        with held(run.lock):
            if not run.is_merged():
                run.merge()
            run.merge_events()
            figures = summary.write(run)
        say("done\n" + summary.render(figures, run.files if keep else {}))
    else:
        say(f"{rank}: done, {tally.rows:,} rows, {tally.failed:,} failed; the last rank merges")
    records = tally.rows + tally.failed
    return SOME_FAILED if records and tally.failed / records > max_error_rate else ALL_DONE
