"""Standard input as an input. It is kept as a file in the run directory, since records are read more than once."""

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


@contextlib.contextmanager
def resolve_with_stdin(
    names: Sequence[str], kept: Path, columns: Mapping[str, str], *, alone: bool, begun: bool
) -> Iterator[tuple[Source, ...]]:
    """Give the sources that a command line names, one of which may be ``-``, standard input.

    A command that continues a run must be given the same standard input again.

    Args:
        names: Paths, folders, patterns, URLs, ``-``.
        kept: The file in which standard input is kept.
        columns: The column of a table for every field that has another name there.
        alone: Whether this process decodes all records of the inputs.
        begun: Whether an earlier command may have kept its standard input there.

    Raises:
        UsageError: A name leads to no file, or standard input is named twice or by one of several ranks.
    """
    if NAME not in names:
        yield sources.resolve(names, columns)
        return
    if not alone or list(names).count(NAME) > 1:
        raise UsageError("Standard input can be read once, by one process.", hint="Write it to a file first.")
    index = list(names).index(NAME)
    before, after = (sources.resolve(part, columns) for part in (names[:index], names[index + 1 :]))
    with _spooled(kept, begun=begun) as path:
        yield (*before, Source(str(path), kept.name), *after)


@contextlib.contextmanager
def _spooled(kept: Path, *, begun: bool) -> Iterator[Path]:
    """Copy standard input into a file, and give the path of the copy."""
    partial = kept.with_name(f".{kept.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        if begun and kept.exists() and file_sha256(partial) != file_sha256(kept):
            yield partial  # another input than before: the check against the manifest refuses it with a message
        else:
            partial.replace(kept)
            yield kept
    finally:
        partial.unlink(missing_ok=True)
