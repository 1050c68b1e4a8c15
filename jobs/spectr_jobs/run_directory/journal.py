"""The journal: an append-only file of whole lines that a kill at any instant leaves readable.

A line counts once its newline is there. Opening a journal cuts off the line that a kill tore, and takes out lines that
are not rows, as a power cut can leave them. A finished journal may be packed: the same lines in a compressed file.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from pathlib import Path

from spectr_jobs.inputs.compression import Damaged, compress, decompress
from spectr_jobs.records.rows import Row
from spectr_jobs.run_directory.layout import PACKED
from spectr_runtime.errors import SpectrError
from spectr_runtime.files import replace, replacing

_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
_STEP = 1 << 16  # bytes read at a time while the last newline is looked for


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A whole and sound line of a journal.

    Attributes:
        offset: Where the line starts, in bytes; of a packed journal, in the bytes of its content.
        line: The line with its newline.
        row: What the line holds.
    """

    offset: int
    line: bytes
    row: Row


class Journal:
    """Rows that are appended with one write each.

    Attributes:
        path: The file.
        damaged: Lines that had to be taken out when the file was opened.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it; what a kill or a power cut left of a line is taken out."""
        self.path = path
        self.damaged = mend(path)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, line: bytes) -> None:
        """Append a line; after a failed write, for instance on a full disk, nothing of the line stays."""
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
        """Sync and close the file."""
        self.sync()
        os.close(self._file)


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a journal; none where there is no file.

    Raises:
        SpectrError: The journal is packed, and damaged.
    """
    return (entry.row for entry in entries(path))


def entries(path: Path) -> Iterator[Entry]:
    """Yield the whole and sound lines of a journal with their rows; none where there is no file.

    Raises:
        SpectrError: The journal is packed, and damaged.
    """
    for offset, line in _lines(path):
        if (row := _row(line)) is not None:
            yield Entry(offset, line, row)


def lines(path: Path) -> Iterator[bytes]:
    """Yield the whole lines of a journal, unread; none where there is no file."""
    return (line for _, line in _lines(path) if line.endswith(b"\n"))


def _end_of_last_line(path: Path) -> int:
    """Return the number of bytes up to and with the last newline of a file."""
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


def mend(path: Path) -> int:
    """Cut a torn last line back to the last newline, and take out lines that are not rows.

    Returns:
        The number of lines that were taken out.
    """
    if path.exists() and (end := _end_of_last_line(path)) < path.stat().st_size:
        os.truncate(path, end)
    damaged = sum(_row(line) is None for _, line in _lines(path))
    if damaged:
        replace(path, (entry.line for entry in entries(path)))
    return damaged


def pack(path: Path) -> Path:
    """Make a compressed copy of a journal beside it. Once the journal is removed, its rows are read from the copy.

    Returns:
        The path of the copy.
    """
    packed = packed_path(path)
    with path.open("rb") as plain, replacing(packed) as file:
        compress(plain, file)
    return packed


def packed_path(path: Path) -> Path:
    """Return where the compressed copy of a journal is."""
    return path.with_name(path.name + PACKED)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    found = path if path.exists() else packed_path(path)
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
