"""The journal: an append-only file of whole lines that a kill at any instant leaves readable."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

from spectr_jobs.inputs.compression import Damaged, compress, decompress
from spectr_jobs.records.rows import Row
from spectr_runtime.errors import SpectrError
from spectr_runtime.files import sync

_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
_STEP = 1 << 16
PACKED = ".zst"


class Journal:
    """Rows that are appended one write each.

    Attributes:
        path: The file.
        damaged: Lines that had to be taken out when it was opened.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; what a kill or a power cut left of a line is taken out."""
        self.path = path
        self.damaged = mend(path)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, line: bytes) -> None:
        """Append a line; after a failed write, for instance on a full disk, nothing of it stays."""
        before = os.fstat(self._file).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, before)
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def sync(self) -> None:
        """Wait until everything appended is on the disk."""
        _fdatasync(self._file)

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        os.close(self._file)


def whole(path: Path) -> int:
    """Bytes up to and with the last newline of a file."""
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - _STEP)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def rows(path: Path) -> Iterator[tuple[int, bytes, Row]]:
    """Offset, line and row of every whole and sound line of a journal; nothing where there is no file.

    Raises:
        SpectrError: It was compressed, and is damaged.
    """
    for offset, line in _lines(path):
        if (row := _row(line)) is not None:
            yield offset, line, row


def mend(path: Path) -> int:
    """Cut a torn last line back to the last newline, and take out lines that are not rows, as a power cut leaves them.

    Returns:
        How many of the latter there were.
    """
    if path.exists() and (end := whole(path)) < path.stat().st_size:
        os.truncate(path, end)
    damaged = sum(_row(line) is None for _, line in _lines(path))
    if damaged:
        replace(path, (line for _, line, _ in rows(path)))
    return damaged


def pack(path: Path) -> Path:
    """Make a compressed copy of a journal beside it; without the journal, its rows are read from there.

    Returns:
        The copy.
    """
    packed = path.with_name(path.name + PACKED)
    with path.open("rb") as plain, replacing(packed) as file:
        compress(plain, file)
    return packed


def lines(path: Path) -> Iterator[bytes]:
    """Whole lines of a journal, unread; nothing where there is no file."""
    return (line for _, line in _lines(path) if line.endswith(b"\n"))


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    found = path if path.exists() else path.with_name(path.name + PACKED)
    if not found.exists():
        return
    offset = 0
    try:
        with decompress(found.open("rb"), found.name) as file:
            for line in file:
                yield offset, line
                offset += len(line)
    except Damaged as error:
        hint = f"Remove the folder {found.parent}: its records are decoded again."
        raise SpectrError(f"{found} is damaged: {error}.", hint=hint) from error


def _row(line: bytes) -> Row | None:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of another when the block ends, whole or not at all."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def replace(path: Path, pieces: Iterable[bytes]) -> None:
    """Write a file so that it has either its old content or the new, whatever happens."""
    with replacing(path) as file:
        file.writelines(pieces)
