"""Files on a disk: their hash, replacing one as a whole, and waiting until what was written outlives a power cut."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk.

    Raises:
        OSError: There is nothing at the path, or the disk failed.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces the one at a path when the block ends, whole or not at all.

    The new file is written beside the old one and renamed once its content is on the disk. When the block raises, the
    old file stays as it was and nothing is left beside it.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # two processes never write the same file
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    sync(path.parent)


def replace(path: Path, pieces: Iterable[bytes | memoryview]) -> None:
    """Write a file so that it has either its old content or the new one, whatever happens."""
    with replacing(path) as file:
        file.writelines(pieces)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
