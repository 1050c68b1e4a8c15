"""Verification: every record of the input exactly once in the output or the errors, and nothing altered since."""

from __future__ import annotations

import dataclasses
from collections import Counter
from pathlib import Path

from spectr_jobs.console import say
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
_STEP = 1 << 20


@dataclasses.dataclass(slots=True)
class Verdict:
    """What was found.

    Attributes:
        completed: Records with a row in the output.
        failed: Records with a row in the errors.
        missing: Records without a row, in shards that are not sealed yet.
        problems: Everything that must not be.
    """

    completed: int = 0
    failed: int = 0
    missing: int = 0
    problems: list[str] = dataclasses.field(default_factory=list)


def verify(run: RunDirectory) -> Verdict:
    """Check a run directory against its manifest and its inputs; it may be incomplete, or still be written.

    Args:
        run: The run directory.
    """
    verdict = Verdict(problems=[*changed_sources(run)])
    if verdict.problems:
        return verdict
    reader = ShardReader(run.manifest)
    for number in run.shards:
        keys = [record.origin.key for record in reader.read(number)]
        _check_shard(run.shard(number), keys, sealed=run.is_sealed(number), verdict=verdict)
    if run.summary.exists():
        verdict.problems += [
            f"{run.path / name} is not what the shards hold" for name in run.parts if not _merged(run, name)
        ]
    return verdict


def show_verdict(run: RunDirectory) -> int:
    """Verify a run directory, tell what was found, and give the exit code."""
    verdict = verify(run)
    for problem in verdict.problems[:SHOWN_PROBLEMS]:
        say(problem)
    if len(verdict.problems) > SHOWN_PROBLEMS:
        say(f"and {len(verdict.problems) - SHOWN_PROBLEMS:,} problems more")
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
    """Whether a merged file is the shards' files one after another."""
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
