"""A lock on a file that the kernel releases when the process that holds it ends, in whatever way it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from spectr_jobs.console import say
from spectr_jobs.run_directory.layout import LOCK
from spectr_runtime.errors import SpectrError

WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # a file system's ways to say so


class Lock:
    """An exclusive lock that this process holds. It works between processes of a machine, and over NFS.

    Args:
        handle: The descriptor of the locked file. Use ``try_take`` to get a lock.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle

    @staticmethod
    def try_take(path: Path) -> Lock | None:
        """Take the lock on a file, or return None if another process holds it."""
        return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Release the lock. The file stays, since removing it would let two processes lock two files of one name."""
        os.close(self._handle)


def is_free(folder: Path) -> bool:
    """Return whether no process of this machine holds the lock of a shard's folder; the folder may not exist yet.

    Looking writes nothing.
    """
    try:
        lock = _lock(folder / LOCK, fcntl.LOCK_SH | fcntl.LOCK_NB, os.O_RDONLY)
    except FileNotFoundError:
        return True
    if lock is not None:
        lock.release()
    return lock is not None


@contextlib.contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold the lock on a file while the block runs, after waiting for the process that holds it."""
    lock = Lock.try_take(path)
    if lock is None:
        say(f"waiting for the process that holds {path}")
        lock = _lock(path, fcntl.LOCK_EX)
    assert lock is not None
    try:
        yield
    finally:
        lock.release()


def _lock(path: Path, operation: int, access: int = os.O_RDWR | os.O_CREAT) -> Lock | None:
    """Open a file and lock it; return None if the operation must not wait and another process holds the lock."""
    handle = os.open(path, access | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException as error:
        os.close(handle)
        if isinstance(error, OSError) and error.errno in WITHOUT_LOCKS:
            raise SpectrError(
                f"{path} cannot be locked: {error.strerror}.",
                hint="Take a run directory on a file system with locks; on Lustre, mount it with -o flock.",
            ) from error
        raise
    return Lock(handle)
