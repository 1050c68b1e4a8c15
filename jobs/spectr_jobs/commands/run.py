"""A run, from the command's values to its exit code."""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from spectr_jobs.drivers.driver import Driver
from spectr_jobs.drivers.rank import Rank
from spectr_jobs.extras import load
from spectr_jobs.inputs.sources import Source
from spectr_jobs.inputs.stdin import named
from spectr_jobs.inputs.survey import InputFile, Survey, survey
from spectr_jobs.report import summary
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.lock import held
from spectr_jobs.run_directory.manifest import Manifest, Terms
from spectr_jobs.run_directory.mirror import Mirror
from spectr_jobs.run_directory.paths import is_remote
from spectr_jobs.run_directory.shard import reopen
from spectr_jobs.work.progress import say
from spectr_jobs.work.setup import Setup
from spectr_jobs.work.stop import Stop
from spectr_runtime import Bundle
from spectr_runtime.errors import UsageError
from spectr_runtime.rows.request import SamplingParams

ALL_DONE, SOME_FAILED = 0, 3
SHAPES = {"openai": "OpenAI batch records", "simple": "simple records"}


def prepare(path: Path, bundle: Bundle, inputs: Sequence[Source], terms: Terms) -> RunDirectory:
    """Make the run directory, or open it and check that it was started with the same terms and inputs.

    Raises:
        UsageError: It was started with others.
        InputError: The inputs hold no record, or an id twice.
    """

    def make() -> Manifest:
        found = survey(inputs, terms.sampling, shard_size=terms.shard_size, limit=terms.limit)
        tell(found)
        return Manifest(
            created=int(time.time()),
            bundle=str(bundle.path),
            terms=terms,
            files=found.files,
            records=found.records,
            bad=found.bad,
            shards=found.shards,
            versions=summary.versions(),
        )

    run, made = RunDirectory.start(path, make)
    if made:
        return run
    files = tuple(InputFile.of(source, "simple", {}) for source in inputs)
    run.manifest.check(terms, files)
    return run.reading(inputs)


def tell(found: Survey) -> None:
    """Tell the user what the inputs hold."""
    for file in found.files:
        counts = ", ".join(f"{count:,} {SHAPES[shape]}" for shape, count in file.records.items())
        say(f"{file.path}: {counts}" if counts else f"warning: {file.path}: no record")
    for message in found.refusals:
        say(message)
    if found.bad:
        say(f"{found.bad:,} of {found.records:,} records cannot be decoded; they go to errors.jsonl")


def retry(run: RunDirectory, rank: Rank) -> None:
    """Take the failures of a rank's shards that may not come again back, so that they are decoded again."""
    count = sum(reopen(run.shard(number)) for number in rank.shards(len(run.shards)))
    say(f"{count:,} failed records are tried again")


def conclude(run: RunDirectory, rank: Rank, max_error_rate: float, *, keep: bool) -> int:
    """Merge if this was the last rank, tell how it went, and give the exit code.

    Args:
        run: The run directory.
        rank: Whose shards count for the exit code.
        max_error_rate: Share of failed records up to which the run has gone well.
        keep: Whether the run directory stays.
    """
    tally = summary.total(run, rank.shards(len(run.shards)))
    if all(map(run.is_sealed, run.shards)):
        with held(run.path / "lock"):
            if not run.summary.exists():
                run.merge()
            run.merge_events()
            figures = summary.write(run)
        say("done\n" + summary.render(figures, run.files if keep else {}))
    else:
        say(f"{rank}: done, {tally.rows:,} rows, {tally.failed:,} failed; the last rank merges")
    records = tally.rows + tally.failed
    return SOME_FAILED if records and tally.failed / records > max_error_rate else ALL_DONE


def execute(
    bundle_path: Path,
    inputs: Sequence[str],
    output: str,
    *,
    columns: Mapping[str, str],
    how: Setup,
    seed: int,
    sampling: SamplingParams,
    limit: int | None,
    shard_size: int,
    compress: str | None,
    driver: Driver,
    stop: Stop,
    retry_errors: bool,
    max_error_rate: float,
    mirror: Mirror | None,
) -> int:
    """Decode the inputs into a run directory, or go on with one.

    Returns:
        The exit code: 0 if every record was completed, 3 if too many failed.

    Raises:
        SpectrError: The run cannot start or cannot go on; it owns the exit code.
    """
    if compress is not None:
        load("zstandard", "zstd", f"--compress {compress}")
    if output == "-" and mirror is not None:
        raise UsageError("-o - keeps nothing that --mirror could copy.", hint="Name a run directory.")
    with _place(output) as (path, echo):
        bundle = Bundle.open(bundle_path)
        RunDirectory.reserve(path)
        if mirror is not None:
            with held(path / "lock"):
                mirror.fetch(path)
        terms = Terms(bundle.sha256, seed, sampling, limit, shard_size, compress)
        with named(inputs, path, driver.rank, columns) as files:
            run = prepare(path, bundle, files, terms)
        if retry_errors:
            retry(run, driver.rank)
        mine = driver.rank.shards(len(run.shards))
        with contextlib.nullcontext() if mirror is None else mirror.following(run, mine):
            driver.decode(run, bundle, how, stop, echo)
            return conclude(run, driver.rank, max_error_rate, keep=echo is None)


@contextlib.contextmanager
def _place(output: str) -> Iterator[tuple[Path, BinaryIO | None]]:
    """The run directory, and where rows go beside it: for ``-`` a folder that is removed, and stdout."""
    if is_remote(output):
        what = f"The run directory {output} is a URL; it must be a folder, since rows are appended to files in it."
        raise UsageError(what, hint="Decode into a folder, and keep a copy there with --mirror.")
    if output != "-":
        yield Path(output), None
        return
    with tempfile.TemporaryDirectory(prefix="spectr-") as folder:
        yield Path(folder), sys.stdout.buffer
