"""Standard input as an input: kept in the run directory, since records are read more than once."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from spectr_jobs.inputs import sources
from spectr_jobs.inputs.sources import Source
from spectr_runtime.errors import UsageError
from spectr_runtime.files import file_sha256

NAME = "-"
KEPT = "stdin.jsonl"


@contextlib.contextmanager
def resolve_with_stdin(
    names: Sequence[str], folder: Path, columns: Mapping[str, str], *, alone: bool, begun: bool
) -> Iterator[tuple[Source, ...]]:
    """Give the inputs that a command line names, where ``-`` is standard input.

    A run that goes on must be given the same standard input again; what the first reading kept is what is decoded.

    Args:
        names: Paths, folders, patterns, URLs.
        folder: Where standard input is kept: the run directory.
        columns: Columns of tables by the fields that they stand for.
        alone: Whether no other process decodes a part of these inputs.
        begun: Whether the folder may hold what an earlier command kept.

    Raises:
        UsageError: An input cannot be read; or standard input is named twice, or by one of several ranks.
    """
    if NAME not in names:
        yield sources.resolve(names, columns)
        return
    if not alone or list(names).count(NAME) > 1:
        raise UsageError("Standard input can be read once, by one process.", hint="Write it to a file first.")
    index = list(names).index(NAME)
    before, after = (sources.resolve(part, columns) for part in (names[:index], names[index + 1 :]))
    with _spooled(folder, begun=begun) as path:
        yield (*before, Source(str(path), KEPT), *after)


@contextlib.contextmanager
def _spooled(folder: Path, *, begun: bool) -> Iterator[Path]:
    """Give the file that standard input is kept in."""
    partial, kept = folder / f".{KEPT}.{os.getpid()}.tmp", folder / KEPT
    try:
        with partial.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        if begun and kept.exists() and file_sha256(partial) != file_sha256(kept):
            yield partial  # another input than before: the check of the manifest refuses it and says so
        else:
            partial.replace(kept)
            yield kept
    finally:
        partial.unlink(missing_ok=True)
