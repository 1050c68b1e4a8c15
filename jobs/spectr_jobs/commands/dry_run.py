"""The dry run: how many records and tokens a run would decode, in which memory, and in what time.

If the run directory is already begun, the figures are those of the records that are left.
"""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import math
import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from spectr_jobs.clock import show_duration
from spectr_jobs.commands import pilot
from spectr_jobs.commands.job import Job
from spectr_jobs.commands.pilot import Pilot
from spectr_jobs.commands.run import check_setup, show_survey
from spectr_jobs.console import TableLine, say, table
from spectr_jobs.drivers.rank import Rank
from spectr_jobs.inputs.reader import START, Reader
from spectr_jobs.inputs.sources import Source
from spectr_jobs.inputs.stdin import resolve_with_stdin
from spectr_jobs.inputs.survey import Survey, survey
from spectr_jobs.records.record import Record
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.layout import STDIN
from spectr_jobs.run_directory.manifest import Terms
from spectr_jobs.work import models
from spectr_jobs.work.load import Encoder, Load
from spectr_jobs.work.setup import FITTED, Setup
from spectr_runtime.bundle import Bundle
from spectr_runtime.errors import RequestError, UsageError
from spectr_runtime.files import show_bytes

COUNTED = 256  # records, at least, whose prompts are tokenized
PILOTED = 64  # rows for which the sample is large enough, if their number is not chosen yet


def dry_run(job: Job, rank: Rank) -> int:
    """Show the records, tokens, memory and time of a run, or of what is left of it.

    Args:
        job: The job of the run.
        rank: The rank of this process. The time is that of one rank, if the ranks of its world share the records.

    Returns:
        The exit code 0.

    Raises:
        SpectrError: The run could not start or continue, or its batch does not fit into the free memory.
    """
    bundle = Bundle.open(job.bundle)
    setup = job.setup
    check_setup(setup, bundle)
    begun = RunDirectory.is_begun(Path(job.output))
    run = RunDirectory.open(Path(job.output)) if begun else None
    with (
        tempfile.TemporaryDirectory(prefix="spectr-") as folder,
        resolve_with_stdin(job.inputs, Path(folder) / STDIN, job.columns, alone=rank.world == 1, begun=False) as inputs,
    ):
        terms = job.terms(bundle)
        found = survey(inputs, terms.sampling, shard_size=job.shard_size, limit=job.limit)
        show_survey(found)
        if run is not None:
            run.manifest.check(terms, found.files)
        load = _load(job, terms, inputs, found, run)
    date = terms.date or (run.manifest.date if run is not None else datetime.date.today())
    say(f"{job.describe_defaults(bundle)}; date {date}")
    lines = [*_input(found, load, job.shard_size, rank, run)]
    if run is not None and not load.records:
        _show(setup, [*lines, ("time", "none: nothing is left to decode")])
        return 0
    encoder, most = models.open_tokenizer(bundle, date=date), bundle.manifest.limits.capacity
    lines += _prompts(encoder, most, load)
    if setup.batch_size == FITTED:
        size = models.choose_batch(bundle, setup, load.times(1 / rank.world), date=date, processes=rank.beside)
        setup = dataclasses.replace(setup, batch_size=size.rows, longest=size.longest)
        longest = size.longest
        lines.append(("batch size", f"{size.rows:,}: {size.reason}"))
    else:
        longest = load.lengths(encoder, most).longest if setup.call_tokens is None else most
    lines.append(_memory(bundle, setup, longest))
    started = time.monotonic()
    decoder = models.open_decoder(bundle, setup, seed=job.seed, date=date)
    loading = time.monotonic() - started
    requests = itertools.chain.from_iterable(record.requests for record in load.sample)
    measured = pilot.decode_sample(decoder, requests, setup.rows)
    _show(setup, [*lines, *_time(measured, load, loading, rank)])
    return 0


def _show(setup: Setup, lines: Sequence[TableLine]) -> None:
    say(f"dry run, nothing is written: {setup}\n{table(lines)}")


def _load(job: Job, terms: Terms, inputs: Sequence[Source], found: Survey, run: RunDirectory | None) -> Load:
    """Read all records again, count those that are left to decode, and draw the sample."""
    rows = PILOTED if job.setup.batch_size == FITTED else job.setup.batch_size
    size = max(COUNTED, 2 * pilot.GENERATIONS * rows)
    load, generator, done = Load(), random.Random(0), set[str]()
    reader = Reader(inputs, [file.shape for file in found.files], terms.sampling)
    starts = {shard.start: number for number, shard in enumerate(found.shards)}
    for item in reader.read(START, job.limit):
        if run is not None and item.position in starts:
            done = run.done(starts[item.position])
        if isinstance(item.record, Record) and item.record.origin.key not in done:
            load.add(item.record, size, generator)
    generator.shuffle(load.sample)
    return load


def _input(found: Survey, load: Load, shard_size: int, rank: Rank, run: RunDirectory | None) -> Iterator[TableLine]:
    bad = f", {found.bad:,} of them cannot be decoded" if found.bad else ""
    shards = len(found.shards)
    ranks = f", {len(rank.shards(shards)):,} of them of {rank}" if rank.world > 1 else ""
    yield "records", f"{found.records:,}{bad}"
    yield "shards", f"{shards:,} of up to {shard_size:,} records{ranks}"
    if run is not None:
        yield "left", f"{load.records:,} of them; the others have their rows in {run.path}"
    yield "completions", f"{load.completions:,}, at most {load.most_tokens:,} tokens"


def _prompts(encoder: Encoder, most: int, load: Load) -> list[TableLine]:
    """Return the number of prompt tokens: counted if the sample holds all records, otherwise estimated from it."""
    counts, failed = [], 0
    for record in load.sample:
        try:
            counts.append(sum(len(encoder.encode(prompt, most)) for prompt in record.prompts))
        except RequestError:
            failed += 1
    if not counts:
        return [("prompt tokens", "none: no prompt can be tokenized")]
    share = len(counts) / len(load.sample)
    total = round(statistics.fmean(counts) * load.records * share)
    if len(load.sample) == load.records:
        lines = [("prompt tokens", f"{total:,}")]
    else:
        error = 2 * statistics.stdev(counts) / statistics.fmean(counts) / math.sqrt(len(counts))
        lines = [("prompt tokens", f"about {total:,} ± {error:.0%}, from {len(counts):,} records")]
    if failed:
        lines.append(("", f"{failed:,} of {len(load.sample):,} prompts looked at cannot be tokenized"))
    return lines


def _memory(bundle: Bundle, setup: Setup, longest: int) -> TableLine:
    """Return the memory that the batch needs for texts of up to so many tokens, and the memory that is free.

    Raises:
        UsageError: The batch does not fit.
    """
    needed, free = models.footprint(bundle, setup, longest), models.free_memory(setup.device)
    total, rows = needed.total(setup.rows), setup.rows
    parts = (
        f"weights {show_bytes(needed.weights)}, caches {show_bytes(rows * needed.cache_per_row)} "
        f"({rows:,} rows of {needed.slots:,} slots, for texts of up to {longest:,} tokens), "
        f"shared prefixes {show_bytes(needed.prefixes(rows))}, "
        f"laws {show_bytes(rows * needed.laws_per_row)}"
    )
    if needed.recorded_per_row:
        parts += f", recorded rounds {show_bytes(rows * needed.recorded_per_row)}"
    if free is None:
        return "memory", f"{show_bytes(total)}: {parts}"
    most = needed.rows_in(free)
    if rows > most:
        asked = f"--batch-size {rows}" if setup.call_shape is None else f"--call-shape {setup.call_shape}"
        raise UsageError(
            f"{asked} needs {show_bytes(total)} of memory on {setup.device} ({parts}); {show_bytes(free)} are free.",
            hint=f"At most {most:,} rows fit." if most else "Not even one row fits.",
        )
    return "memory", f"{show_bytes(total)} of {show_bytes(free)}: {parts}; at most {most:,} rows fit"


def _time(measured: Pilot | None, load: Load, loading: float, rank: Rank) -> list[TableLine]:
    if measured is None:
        return [("time", "unknown: none of the sampled records could be decoded")]
    seconds = measured.seconds_per_completion * load.completions / rank.world
    sure = "too few completions to estimate the error"
    if measured.uncertainty is not None:
        least, most = seconds / (1 + measured.uncertainty), seconds * (1 + measured.uncertainty)
        sure = f"95 % sure of {show_duration(least)} to {show_duration(most)}"
    ranks = f" on each of {rank.world:,} ranks" if rank.world > 1 else ""
    speed = (
        f"{measured.tokens / measured.seconds:,.0f} tokens/s, {measured.tokens / measured.completions:,.0f} tokens each"
    )
    return [
        ("pilot", f"{measured.completions:,} completions in {show_duration(measured.seconds)}: {speed}"),
        ("time", f"about {show_duration(seconds)}{ranks} ({sure}), and {show_duration(loading)} to load the models"),
    ]
