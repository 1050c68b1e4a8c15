"""A lock that the kernel drops with the process that holds it, however that process ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from spectr_jobs.console import say
from spectr_jobs.run_directory.layout import LOCK


class Lock:
    """An exclusive lock on a file. It works between the processes of a machine, and over NFS between machines."""

    def __init__(self, handle: int) -> None:
        """Take over an open and locked file; use ``try_take``."""
        self._handle = handle

    @staticmethod
    def try_take(path: Path) -> Lock | None:
        """Take the lock, or return None if another process holds it."""
        return _lock(path, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def release(self) -> None:
        """Give the lock back. The file stays: removing it would let two processes lock two files of one name."""
        os.close(self._handle)


def is_free(folder: Path) -> bool:
    """Tell whether no process holds the lock of a folder; the folder may not exist yet."""
    if not folder.exists():
        return True
    lock = Lock.try_take(folder / LOCK)
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


def _lock(path: Path, operation: int) -> Lock | None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, operation)
    except BlockingIOError:
        os.close(handle)
        return None
    except BaseException:
        os.close(handle)
        raise
    return Lock(handle)
