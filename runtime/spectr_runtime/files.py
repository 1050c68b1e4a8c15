"""Files on a disk: their hash, replacing one as a whole, and waiting until what was written outlives a power cut."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

WITHOUT_SYNC = (
    errno.EINVAL,
    errno.ENOSYS,
    errno.EOPNOTSUPP,
)  # a file system's ways to say that it cannot
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
UNITS = ("B", "kB", "MB", "GB", "TB")


def show_bytes(count: float) -> str:
    """Return a number of bytes as text: ``37.4 MB``."""
    for unit in UNITS[:-1]:
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} {UNITS[-1]}"


def sync(path: Path) -> None:
    """Wait until a file's content, or a folder's entries, are on the disk.

    Raises:
        OSError: There is nothing at the path, or the disk failed.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        wait(handle, path, os.fsync)
    finally:
        os.close(handle)


def wait(handle: int, path: Path, fsync: Callable[[int], None]) -> None:
    """Wait until what was written to an open file or folder is on the disk. Some file systems cannot, for folders.

    Args:
        handle: Its descriptor.
        path: Its path, for messages.
        fsync: The call that waits.

    Raises:
        OSError: The disk failed, or the file system cannot; the error names the path.
    """
    try:
        fsync(handle)
    except OSError as error:
        if error.errno not in WITHOUT_SYNC or not stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(error.errno, f"fsync: {error.strerror}", str(path)) from error


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that replaces the one at a path when the block ends, whole or not at all.

    The new file is written beside the old one and renamed once its content is on the disk. When the block raises, the
    old file stays as it was and nothing is left beside it. Errors of the new file name the path.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # two processes never write the same file
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            wait(file.fileno(), path, os.fsync)
        partial.replace(path)
    except OSError as error:
        if error.filename == str(partial) or (error.filename is None and error.errno in FULL):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
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
