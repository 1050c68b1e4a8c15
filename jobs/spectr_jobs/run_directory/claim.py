"""A claim: a file in a shard's folder that says which process is at work on the shard, and that it still lives.

A lock tells processes of one machine apart, but some mounts keep locks on each machine alone. A claim is therefore made
beside the lock: a file that only one process can make, which says who that is, and whose time of change its process
renews every few seconds. A claim that was not renewed for ``STALE`` seconds is that of a dead process; ages are
differences of times that the same file system wrote, so that no two clocks are compared.

The claims of a shard are numbered, and the highest number counts. Whoever takes a shard over makes the next number,
which only one process can, so two can never both believe that they have followed a dead one. A process that was
suspended until its claim was stale finds a higher number before it seals the shard.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import threading
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path

from spectr_jobs.errors import Interrupted
from spectr_jobs.run_directory.layout import CLAIM

BEAT = 5.0  # seconds between two renewals of a claim
STALE = 120.0  # seconds after which a claim that was not renewed is that of a dead process


@dataclasses.dataclass(frozen=True, slots=True)
class Holder:
    """The process that made a claim.

    Attributes:
        machine: Identity of its machine's running system, on which locks of its processes are seen.
        host: Name of its machine, for messages.
        process: Its number there.
    """

    machine: str
    host: str
    process: int

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


class Claim:
    """A claim of this process, renewed by a thread until it is released. Use ``try_take`` to get one.

    Args:
        path: The file of the claim.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="claim", daemon=True)
        self._thread.start()

    @staticmethod
    def try_take(folder: Path) -> Claim | None:
        """Claim a shard, whose lock this process holds, or return None if a living process of another machine has it.

        Args:
            folder: Folder of the shard.
        """
        last = _last(folder)
        if last is not None and _lives(last):
            return None
        mine = folder / f"{CLAIM}.{0 if last is None else _number(last) + 1}"
        if not _make(mine):
            return None
        if _last(folder) != mine:  # numbers were made and removed in the meantime
            mine.unlink()
            return None
        for path in folder.glob(f"{CLAIM}.*"):
            if _number(path) < _number(mine):
                path.unlink(missing_ok=True)
        return Claim(mine)

    def check(self) -> None:
        """Check that no other process has taken the shard over.

        Raises:
            Interrupted: One has, since this process gave no sign of life for too long.
            FileNotFoundError: The run directory was moved or removed.
        """
        os.stat(self._path.parent)
        if _last(self._path.parent) != self._path:
            raise Interrupted(
                f"{self._path.parent} was taken over by another process, since this one gave no sign of life for "
                f"{STALE:.0f} s.",
                hint="Run the same command again to go on.",
            )

    def release(self, *, sealed: bool = False) -> None:
        """End the claim.

        The file stays, without a holder, so that its number is not given again; that of a sealed shard, which nobody
        will claim, is removed.
        """
        self._over.set()
        self._thread.join()
        if sealed:
            self._path.unlink(missing_ok=True)
        elif self._path.exists():
            with self._path.open("r+b") as file:  # in place: a full disk would not give back what was cut off first
                file.write(RELEASED)
                file.truncate()

    def _renew(self) -> None:
        while not self._over.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._path)


RELEASED = b"null"


def holder(folder: Path) -> Holder | None:
    """Return the process of another machine that has claimed a shard and lives, as far as its claim tells.

    A claim of this machine is left to the lock, which the system releases when its process ends.
    """
    last = _last(folder)
    return _read(last) if last is not None and _lives(last) else None


def find_dead(folders: Iterable[Path], stopped: Callable[[], bool]) -> list[Path]:
    """Watch the claims of other machines' processes, and return the shards whose process is dead.

    A process is alive if it renews or releases its claim, which takes a few seconds to see; it is dead if the claim
    becomes stale.

    Args:
        folders: Folders of shards.
        stopped: Says whether to stop watching.
    """
    dead = []
    watched = {folder: _sign_of_life(folder) for folder in folders if holder(folder) is not None}
    while watched and not stopped():
        for folder, seen in [*watched.items()]:
            if _sign_of_life(folder) != seen:
                del watched[folder]
            elif _age(folder / seen[0]) > STALE:
                del watched[folder]
                dead.append(folder)
        time.sleep(BEAT / 10 if watched else 0)
    return dead


def _sign_of_life(folder: Path) -> tuple[str, bytes, float]:
    last = _last(folder)
    return ("", b"", 0.0) if last is None else (last.name, _content(last), _changed(last))


def _last(folder: Path) -> Path | None:
    """Return the claim that counts; None if there is none."""
    return max(folder.glob(f"{CLAIM}.*"), key=_number, default=None)


def _number(path: Path) -> int:
    return int(path.name.rpartition(".")[2])


def _lives(path: Path) -> bool:
    """Return whether a claim is that of a process of another machine, and not stale."""
    found = _read(path)
    return found is not None and found.machine != _machine() and _age(path) <= STALE


def _make(path: Path) -> bool:
    """Make the file of a claim; return False if another process has just made it.

    If the disk is full, nothing stays of the file, which would seem to be that of an unknown process.
    """
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    except FileExistsError:
        return False
    try:
        with open(file, "wb") as written:
            written.write(json.dumps(dataclasses.asdict(Holder(_machine(), platform.node(), os.getpid()))).encode())
    except OSError as error:
        path.unlink()
        raise OSError(error.errno, error.strerror, str(path)) from error
    return True


def _read(path: Path) -> Holder | None:
    """Return who made a claim; None if it was released. A file that is not whole is that of an unknown process."""
    text = _content(path)
    try:
        return None if text == RELEASED else Holder(**json.loads(text))
    except (ValueError, TypeError):
        return Holder("", "a machine that the claim does not name", 0)


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return RELEASED


def _changed(path: Path) -> float:
    """Return the time of a claim's last renewal, 0 if it is gone. Network mounts ask for it anew at an opening."""
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return 0.0


def _age(path: Path) -> float:
    """Return how long ago a claim was renewed, by the clock of its file system."""
    probe = path.with_name(f".now.{uuid.uuid4().hex}")
    with probe.open("wb") as file:
        now = os.fstat(file.fileno()).st_mtime
    probe.unlink()
    return now - _changed(path)


def _machine() -> str:
    """Return the identity of the system that runs on this machine: containers share it, and it changes with a boot."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return platform.node()
