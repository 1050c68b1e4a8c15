"""Verification: every record has exactly one row, in the output or the errors, and no file was altered since."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from spectr_jobs.console import say
from spectr_jobs.errors import InputChanged
from spectr_jobs.records import rows
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.directory import RunDirectory, ShardReader
from spectr_jobs.run_directory.layout import ERRORS, OUTPUT, PARTS
from spectr_jobs.run_directory.provenance import changed_sources
from spectr_jobs.run_directory.seal import Seal
from spectr_runtime.errors import SpectrError

SOUND, BROKEN, INCOMPLETE = 0, 1, 75
SHOWN_PROBLEMS = 20
MERGE = "Run the run's command again, which makes it anew from the shards."
_STEP = 1 << 20  # bytes compared at a time


@dataclasses.dataclass(slots=True)
class Verdict:
    """The result of a verification.

    Attributes:
        completed: Number of rows in the output.
        failed: Number of rows in the errors.
        missing: Number of records without a row, in shards that are not sealed yet.
        unmerged: Whether all shards are sealed, and were not merged since.
        problems: Messages about everything that is wrong.
    """

    completed: int = 0
    failed: int = 0
    missing: int = 0
    unmerged: bool = False
    problems: list[str] = dataclasses.field(default_factory=list)


def verify(run: RunDirectory) -> Verdict:
    """Check a run directory against its manifest and its inputs. The run may be incomplete, or still be going on."""
    verdict = Verdict(problems=[*changed_sources(run)])
    if verdict.problems:
        tally = run.tally(run.shards)
        verdict.completed, verdict.failed = tally.rows, tally.failed
        verdict.missing = run.manifest.records - tally.rows - tally.failed
        return verdict
    reader = ShardReader(run.manifest)
    for number in run.shards:
        try:
            keys = [record.origin.key for record in reader.read(number)]
        except InputChanged as error:
            verdict.problems.append(str(error))
            continue
        _check_shard(run.shard(number), keys, sealed=run.is_sealed(number), verdict=verdict)
    if not run.summary.exists():
        verdict.unmerged = all(map(run.is_sealed, run.shards))
    elif not verdict.problems:
        verdict.problems += filter(None, (_merge_problem(run, name) for name in run.parts))
    return verdict


def show_verdict(run: RunDirectory) -> int:
    """Verify a run directory, show the result, and return the exit code."""
    verdict = verify(run)
    for problem in verdict.problems[:SHOWN_PROBLEMS]:
        say(problem)
    if len(verdict.problems) > SHOWN_PROBLEMS:
        say(f"and {len(verdict.problems) - SHOWN_PROBLEMS:,} more problems")
    counts = f"{verdict.completed:,} completed, {verdict.failed:,} failed, {verdict.missing:,} to be decoded"
    if verdict.unmerged:
        say(f"the shards of {run.path} are still to be merged; the run's command does that")
    left = verdict.missing or verdict.unmerged
    state = "broken" if verdict.problems else "incomplete" if left else "sound"
    say(f"{run.path} is {state}: of {run.manifest.records:,} records {counts}")
    return BROKEN if verdict.problems else INCOMPLETE if left else SOUND


def _check_shard(folder: Path, keys: list[str], *, sealed: bool, verdict: Verdict) -> None:
    try:
        found = {name: [rows.key(row) for row in journal.rows(folder / name)] for name in PARTS}
        verdict.problems += _altered(folder) if sealed else ()
    except SpectrError as error:
        verdict.problems.append(str(error))
        return
    times = Counter(key for part in found.values() for key in part)
    known = set(keys)
    verdict.completed += len(found[OUTPUT])
    verdict.failed += len(found[ERRORS])
    verdict.problems += [f"{folder}: {key!r} has {count} rows" for key, count in times.items() if count > 1]
    verdict.problems += [f"{folder}: {key!r} is the id of no record" for key in times if key not in known]
    missing = [key for key in keys if key not in times]
    if not sealed:
        verdict.missing += len(missing)
        return
    verdict.problems += [f"{folder}: {key!r} has no row, but the shard is sealed" for key in missing]


def _altered(folder: Path) -> Iterator[str]:
    """Yield what is wrong with the files of a sealed shard, and what helps."""
    seal = Seal.read(folder)
    for name in seal.sha256:
        try:
            for _ in seal.pieces(folder, name):
                pass
        except SpectrError as error:
            yield str(error)


def _merge_problem(run: RunDirectory, name: str) -> str | None:
    """Return what is wrong with a merged file, and what helps; None if it consists of the shards' files."""
    merged = run.path / name
    if not merged.is_file():
        return f"{merged} is gone. {MERGE}"
    with merged.open("rb") as file:
        if all(_continues(file, run.shard(number) / name) for number in run.shards) and not file.read(1):
            return None
    return f"{merged} is not what the shards hold. Remove it. {MERGE}"


def _continues(whole: BinaryIO, path: Path) -> bool:
    """Return whether a stream goes on with the content of a file."""
    with path.open("rb") as part:
        while piece := part.read(_STEP):
            if whole.read(len(piece)) != piece:
                return False
    return True
