"""The journal: an append-only file of rows, one JSON object per line, that stays readable if a kill ends its process.

A line counts as soon as its newline is in the file. When a journal is opened, a last line that a kill has torn is cut
off, and lines that are no JSON objects, as a power cut can leave them, are removed. A finished journal may be packed:
the same lines in a compressed file beside it.
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
from spectr_runtime.files import replace, replacing, wait

_fdatasync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync
REDO = "Remove the folder {}; the next run of the same command decodes its records again."
_STEP = 1 << 16  # bytes read at a time while the last newline is looked for


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A sound line of a journal: one that is whole and holds a JSON object.

    Attributes:
        offset: Offset of the line's first byte; in a packed journal, after decompression.
        line: The line with its newline.
        row: The JSON object.
    """

    offset: int
    line: bytes
    row: Row


class Journal:
    """A journal that is open for appending.

    Attributes:
        path: The file.
        damaged: Number of lines that had to be removed when the file was opened.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it, and remove damaged lines."""
        self.path = path
        self.damaged = mend(path)
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)

    def append(self, line: bytes) -> None:
        """Append a line. If that fails, for instance because the disk is full, nothing of the line stays.

        Raises:
            OSError: The write failed; the error names the file.
        """
        before = os.fstat(self._file).st_size
        try:
            rest = memoryview(line)
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, before)
            raise OSError(error.errno, error.strerror, str(self.path)) from error

    def sync(self) -> None:
        """Wait until all appended lines are on the disk."""
        wait(self._file, self.path, _fdatasync)

    def close(self) -> None:
        """Sync and close the file."""
        self.sync()
        os.close(self._file)


def rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a journal; a journal without a file has none.

    Raises:
        SpectrError: The journal is packed, and the compressed file is damaged.
    """
    return (entry.row for entry in entries(path))


def entries(path: Path) -> Iterator[Entry]:
    """Yield the sound lines of a journal with their rows; a journal without a file has none.

    Raises:
        SpectrError: The journal is packed, and the compressed file is damaged.
    """
    for offset, line in _lines(path):
        if (row := parse_row(line)) is not None:
            yield Entry(offset, line, row)


def lines(path: Path) -> Iterator[bytes]:
    """Yield the whole lines of a journal without parsing them; a journal without a file has none."""
    return (line for _, line in _lines(path) if line.endswith(b"\n"))


def _end_of_last_line(path: Path) -> int:
    """Return the offset just after the last newline of a file."""
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
    """Cut off a torn last line, and remove lines that hold no JSON object.

    Returns:
        The number of lines that were removed; a torn last line is expected after a kill, and does not count.
    """
    if path.exists() and (end := _end_of_last_line(path)) < path.stat().st_size:
        os.truncate(path, end)
    damaged = sum(parse_row(line) is None for _, line in _lines(path))
    if damaged:
        replace(path, (entry.line for entry in entries(path)))
    return damaged


def pack(path: Path) -> Path:
    """Make a compressed copy of a journal beside it. When the journal is removed, its rows are read from the copy.

    Returns:
        The path of the copy.
    """
    packed = packed_path(path)
    with path.open("rb") as plain, replacing(packed) as file:
        compress(plain, file)
    return packed


def packed_path(path: Path) -> Path:
    """Return the path of the compressed copy of a journal."""
    return path.with_name(path.name + PACKED)


def parse_row(line: bytes) -> Row | None:
    """Return the JSON object of a line, or None if the line is torn or damaged."""
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a journal, packed or not, with their offsets; the last line may be torn."""
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
        raise SpectrError(f"{found} is damaged: {error}.", hint=REDO.format(found.parent)) from error
