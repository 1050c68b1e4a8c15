"""Standard input and pipes as inputs. They are kept as files in the run directory, since records are read repeatedly.

A pipe is a FIFO, or what a shell makes of ``<(command)``. What it holds is known by its content, since it has no name
that would say so.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from spectr_jobs.inputs import sources, tables
from spectr_jobs.inputs.compression import Archive, Damaged, decompress
from spectr_jobs.inputs.sources import Source
from spectr_runtime.errors import UsageError
from spectr_runtime.files import file_sha256

NAME = "-"
LOOKED_AT = 1 << 16  # bytes from the start of the content
_STDIN = re.compile("-|/dev/stdin|(/dev|/proc/self)/fd/0")
_OPEN_FILE = re.compile(r"(/dev|/proc/self)/fd/\d+")  # names an open file of this process, and of no other one


@contextlib.contextmanager
def resolve_with_stdin(
    names: Sequence[str], kept: Path, columns: Mapping[str, str], *, alone: bool, begun: bool
) -> Iterator[tuple[Source, ...]]:
    """Give the sources that a command line names, among which may be standard input and pipes.

    A command that continues a run must be given the same content again, in the same order.

    Args:
        names: Paths, folders, patterns, URLs, pipes, ``-``.
        kept: The file in which standard input is kept if it is JSON Lines; other files are named after it.
        columns: The column of a table for every field that has another name there.
        alone: Whether this process decodes all records of the inputs.
        begun: Whether an earlier command may have kept its standard input there.

    Raises:
        UsageError: A name leads to no file, or standard input or a pipe is named twice, closed, or read by one of
            several ranks.
    """
    streams = [name for name in names if is_stream(name)]
    if not streams:
        yield sources.resolve(names, columns)
        return
    if not alone or len({_STDIN.sub(NAME, name) for name in streams}) < len(streams):
        message = "Standard input or a pipe can be read once, by one process."
        raise UsageError(message, hint="Write it to a file first.")
    with tempfile.TemporaryDirectory(prefix=".pipes-", dir=kept.parent) as folder:
        copies = {}
        for name, stem in zip(streams, _stems(streams, kept), strict=True):
            copies[name] = str(_spooled(name, stem, Path(folder), columns, begun=begun))
        yield sources.resolve([copies.get(name, name) for name in names], columns)


def is_stream(name: str) -> bool:
    """Return whether an input is standard input or a pipe, of which nothing can be read again."""
    if _STDIN.fullmatch(name) or _OPEN_FILE.fullmatch(name):
        return True
    try:
        mode = os.stat(name).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISSOCK(mode)


def _stems(streams: Sequence[str], kept: Path) -> Iterator[Path]:
    """Yield where each stream is kept, but for the ending: ``stdin``, or ``pipe-1`` for the first of the pipes."""
    pipes = [name for name in streams if not _STDIN.fullmatch(name)]
    for name in streams:
        yield kept.with_name(f"pipe-{pipes.index(name) + 1}") if name in pipes else kept.with_suffix("")


def _spooled(name: str, stem: Path, folder: Path, columns: Mapping[str, str], *, begun: bool) -> Path:
    """Copy a stream to a file, and return its path.

    The file lies in the folder instead of its place if another content was kept there: the check against the manifest
    then refuses it with a message.
    """
    copy = folder / stem.name
    with _opened(name) as stream, copy.open("wb") as file:
        shutil.copyfileobj(stream, file)
    ending = _ending(copy, columns)
    copy = copy.rename(copy.with_suffix(ending))
    before = [path for end in tables.PLAIN if (path := stem.with_suffix(end)).exists()]
    if begun and before and file_sha256(copy) not in map(file_sha256, before):
        return copy
    return copy.replace(stem.with_suffix(ending))


@contextlib.contextmanager
def _opened(name: str) -> Iterator[BinaryIO]:
    if not _STDIN.fullmatch(name):
        with _pipe(name) as file:
            yield file
    elif sys.stdin is None:
        raise UsageError(f"Input {name}: standard input is closed.", hint="Name files, or pipe records in.")
    else:
        yield sys.stdin.buffer


def _pipe(name: str) -> BinaryIO:
    try:
        return Path(name).open("rb")
    except OSError as error:
        raise UsageError(f"Input {name}: {error.strerror}.", hint="Name files, or pipe records in.") from error


def _ending(path: Path, columns: Mapping[str, str]) -> str:
    """Return the ending of names of files with such content. Damaged content is met when it is read."""
    try:
        with path.open("rb") as raw, decompress(raw, path.name) as content:
            return tables.ending_of(content.read(LOOKED_AT), columns)
    except (Archive, Damaged):
        return tables.LINES
