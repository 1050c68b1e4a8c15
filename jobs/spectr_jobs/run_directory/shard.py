"""A shard: a fixed run of records of the input, its rows so far, and its seal.

Which records are done is decided by the shard's files alone: those whose ids stand in the output or in the errors.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from spectr_jobs.records import rows
from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.journal import Journal
from spectr_jobs.run_directory.layout import ERRORS, LOCK, PARTS, SEAL
from spectr_jobs.run_directory.lock import Lock
from spectr_jobs.run_directory.seal import Seal
from spectr_runtime.errors import SpectrError
from spectr_runtime.files import file_sha256, replace, sync

# A group commit: waiting for the disk once for many rows costs little, and no more than this is decoded twice.
COMMIT_ROWS = 200
COMMIT_SECONDS = 1.0
FOREIGN = "Somebody changed the file or the inputs: take a new run directory."


class Shard:
    """A shard that this process alone may write.

    Attributes:
        folder: Where its files are.
        done: Ids whose rows are in its files.
        tally: Counts over those rows.
        damaged: Lines that had to be taken out when the shard was opened.
        waiting: Records that were handed to the decoder and have not come back.
        order: Ids of its records as far as they were read, in input order.
        exhausted: Whether all of its records were read.
    """

    def __init__(self, folder: Path, lock: Lock, *, packed: bool) -> None:
        """Read what is done; use ``try_open``."""
        self.folder = folder
        self.tally = Tally()
        self.done: set[str] = set()
        self.waiting = 0
        self.order: list[str] = []
        self.exhausted = False
        self._lock = lock
        self._packed = packed
        self._output, self._errors = (Journal(folder / name) for name in PARTS)
        self.damaged = self._output.damaged + self._errors.damaged
        self._uncommitted = 0
        self._committed_at = time.monotonic()
        for name in PARTS:
            for row in journal.rows(folder / name):
                self._count(row)

    @staticmethod
    def try_open(folder: Path, *, packed: bool) -> Shard | None:
        """Open a shard for writing, or return None if another process has it, or has just sealed it.

        Args:
            folder: Where its files are.
            packed: Whether they are compressed when the shard is sealed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock.try_take(folder / LOCK)
        if lock is None:
            return None
        if (folder / SEAL).exists():
            lock.release()
            return None
        shard = Shard(folder, lock, packed=packed)
        sync(folder)
        sync(folder.parent)
        return shard

    @property
    def complete(self) -> bool:
        """Whether every record of the shard has its row."""
        return self.exhausted and self.waiting == 0

    def add(self, row: rows.Row, line: bytes) -> None:
        """Append a row, given with its line, to the output or the errors, and commit now and then."""
        (self._errors if rows.is_failure(row) else self._output).append(line)
        self._count(row)
        self._uncommitted += 1
        if self._uncommitted >= COMMIT_ROWS or time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self._commit()

    def _count(self, row: rows.Row) -> None:
        self.done.add(rows.key(row))
        self.tally.add(row)

    def _commit(self) -> None:
        self._output.sync()
        self._errors.sync()
        self._uncommitted = 0
        self._committed_at = time.monotonic()

    def seal(self) -> None:
        """Put the rows into input order, leave their counts and hashes beside them, and let the shard go."""
        self._commit()
        order = {key: index for index, key in enumerate(self.order)}
        plain = [self.folder / name for name in PARTS]
        for path in plain:
            if path.stat().st_size:
                _sort(path, order)
        files = [journal.pack(path) for path in plain] if self._packed else plain
        Seal(len(self.order), self.tally, {path.name: file_sha256(path) for path in files}).write(self.folder)
        for path in plain if self._packed else ():
            path.unlink()
        self.close()

    def close(self) -> None:
        """Let the shard go, with what it has on the disk."""
        self._output.close()
        self._errors.close()
        self._lock.release()


def reopen(folder: Path) -> int:
    """Take the errors that may not come again out of a shard, so that their records are decoded again.

    Returns:
        How many errors that were; none if another process has the shard.
    """
    errors = folder / ERRORS
    retryable = sum(map(rows.is_retryable, journal.rows(errors)))
    lock = Lock.try_take(folder / LOCK) if retryable else None
    if lock is None:
        return 0
    for path in (folder / name for name in PARTS):
        if not path.exists():  # packed: whole again before the seal goes, so that a kill between loses no row
            replace(path, journal.lines(path))
    (folder / SEAL).unlink(missing_ok=True)
    replace(errors, (entry.line for entry in journal.entries(errors) if not rows.is_retryable(entry.row)))
    lock.release()
    return retryable


def _sort(path: Path, order: Mapping[str, int]) -> None:
    """Put the lines of a part into the order of the records; a row that stands twice is kept once."""
    found: dict[int, tuple[int, int]] = {}
    for entry in journal.entries(path):
        if (key := rows.key(entry.row)) not in order:
            raise SpectrError(
                f"{path} holds a row with the id {key!r}, which no record of the shard has.", hint=FOREIGN
            )
        found.setdefault(order[key], (entry.offset, len(entry.line)))
    with path.open("rb") as file:

        def pieces() -> Iterator[bytes]:
            for index in sorted(found):
                offset, size = found[index]
                file.seek(offset)
                yield file.read(size)

        replace(path, pieces())
