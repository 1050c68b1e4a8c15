"""Standard input as an input: kept in the run directory, since records are read more than once."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from spectr_jobs.drivers.rank import Rank
from spectr_jobs.inputs import sources
from spectr_jobs.inputs.sources import Source
from spectr_runtime.errors import UsageError
from spectr_runtime.files import file_sha256

NAME = "-"
KEPT = "stdin.jsonl"


@contextlib.contextmanager
def named(names: Sequence[str], folder: Path, rank: Rank, columns: Mapping[str, str]) -> Iterator[tuple[Source, ...]]:
    """The inputs that a command line names; ``-`` is standard input.

    A run that goes on must be given the same standard input again; what the first reading kept is what is decoded.

    Args:
        names: Paths, folders, patterns, URLs.
        folder: The run directory.
        rank: Of this process.
        columns: Columns of tables by the fields that they stand for.

    Raises:
        UsageError: One cannot be read; or standard input is named twice, or by one of several ranks.
    """
    if NAME not in names:
        yield sources.resolve(names, columns)
        return
    if rank.world > 1 or list(names).count(NAME) > 1:
        raise UsageError("Standard input can be read once, by one process.", hint="Write it to a file first.")
    place = list(names).index(NAME)
    before, after = (sources.resolve(part, columns) for part in (names[:place], names[place + 1 :]))
    with _spooled(folder) as path:
        yield (*before, Source(str(path), KEPT), *after)


@contextlib.contextmanager
def _spooled(folder: Path) -> Iterator[Path]:
    partial, kept = folder / f".{KEPT}.{os.getpid()}.tmp", folder / KEPT
    try:
        with partial.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        begun = kept.exists() and (folder / "manifest.json").exists()
        if begun and file_sha256(partial) != file_sha256(kept):
            yield partial  # to be refused with the difference
        else:
            partial.replace(kept)
            yield kept
    finally:
        partial.unlink(missing_ok=True)
