"""Verification: every record has exactly one row, in the output or the errors, and no file was altered since."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

from spectr_jobs.console import say
from spectr_jobs.errors import InputChanged
from spectr_jobs.records import rows
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.directory import RunDirectory, ShardReader
from spectr_jobs.run_directory.layout import ERRORS, OUTPUT, PARTS
from spectr_jobs.run_directory.provenance import changed_sources
from spectr_jobs.run_directory.seal import Seal
from spectr_runtime.errors import SpectrError
from spectr_runtime.files import file_sha256

SOUND, BROKEN, INCOMPLETE = 0, 1, 75
SHOWN_PROBLEMS = 20
_STEP = 1 << 20  # bytes compared at a time


@dataclasses.dataclass(slots=True)
class Verdict:
    """The result of a verification.

    Attributes:
        completed: Number of rows in the output.
        failed: Number of rows in the errors.
        missing: Number of records without a row, in shards that are not sealed yet.
        problems: Messages about everything that is wrong.
    """

    completed: int = 0
    failed: int = 0
    missing: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


def verify(run: RunDirectory) -> Verdict:
    """Check a run directory against its manifest and its inputs. The run may be incomplete, or still be going on."""
    verdict = Verdict(problems=[*changed_sources(run)])
    if verdict.problems:
        return verdict
    reader = ShardReader(run.manifest)
    for number in run.shards:
        try:
            keys = [record.origin.key for record in reader.read(number)]
        except InputChanged as error:
            verdict.problems.append(str(error))
            continue
        _check_shard(run.shard(number), keys, sealed=run.is_sealed(number), verdict=verdict)
    if run.summary.exists():
        verdict.problems += [
            f"{run.path / name} is not what the shards hold" for name in run.parts if not _merged(run, name)
        ]
    return verdict


def show_verdict(run: RunDirectory) -> int:
    """Verify a run directory, show the result, and return the exit code."""
    verdict = verify(run)
    for problem in verdict.problems[:SHOWN_PROBLEMS]:
        say(problem)
    if len(verdict.problems) > SHOWN_PROBLEMS:
        say(f"and {len(verdict.problems) - SHOWN_PROBLEMS:,} more problems")
    counts = f"{verdict.completed:,} completed, {verdict.failed:,} failed, {verdict.missing:,} to be decoded"
    state = "broken" if verdict.problems else "incomplete" if verdict.missing else "sound"
    say(f"{run.path} is {state}: of {run.manifest.records:,} records {counts}")
    return BROKEN if verdict.problems else INCOMPLETE if verdict.missing else SOUND


def _check_shard(folder: Path, keys: list[str], *, sealed: bool, verdict: Verdict) -> None:
    try:
        found = {name: [rows.key(row) for row in journal.rows(folder / name)] for name in PARTS}
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
    verdict.problems += [
        f"{folder / name} was altered"
        for name, sha256 in Seal.read(folder).sha256.items()
        if file_sha256(folder / name) != sha256
    ]


def _merged(run: RunDirectory, name: str) -> bool:
    """Return whether a merged file consists of the shards' files one after another."""
    merged = run.path / name
    if not merged.is_file():
        return False
    with merged.open("rb") as file:
        for number in run.shards:
            with (run.shard(number) / name).open("rb") as part:
                while piece := part.read(_STEP):
                    if file.read(len(piece)) != piece:
                        return False
        return not file.read(1)
