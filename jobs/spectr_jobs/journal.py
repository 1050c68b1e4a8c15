"""The journal: an append-only file of whole lines that a kill at any instant leaves readable."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from spectr_jobs.rows import Row

_sync = getattr(os, "fdatasync", os.fsync)  # macOS has no fdatasync


class Journal:
    """Rows that are appended one write each.

    Opening cuts a torn last line back to the last newline.
    """

    def __init__(self, path: Path) -> None:
        """Open the file, or make it."""
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, whole(path))

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
        _sync(self._file)

    def close(self) -> None:
        """Sync and close."""
        self.sync()
        os.close(self._file)


def whole(path: Path) -> int:
    """Bytes up to and with the last newline of a file."""
    step = 1 << 16
    with path.open("rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end > 0:
            start = max(0, end - step)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def rows(path: Path) -> Iterator[tuple[int, bytes, Row]]:
    """Offset, line and row of every line of a journal; nothing where there is no file.

    Raises:
        ValueError: A line is damaged; the message names file and line.
    """
    if not path.exists():
        return
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number}: damaged: {error}") from error
            yield offset, line, row
            offset += len(line)


def replace(path: Path, parts: Iterator[bytes]) -> None:
    """Write a file so that it has either its old content or the new, whatever happens.

    Args:
        path: The file.
        parts: Its new content, piece by piece.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            partial.unlink()
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
