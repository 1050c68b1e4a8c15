"""A shard: a fixed stretch of the records, the rows that they have so far, and the seal once all have theirs.

The files of the shard alone decide which records are done: those whose ids are in the output or the errors.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from spectr_jobs.records import rows
from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.claim import Claim
from spectr_jobs.run_directory.journal import Journal
from spectr_jobs.run_directory.layout import ERRORS, LOCK, PARTS, SEAL
from spectr_jobs.run_directory.lock import Lock
from spectr_jobs.run_directory.seal import Seal
from spectr_runtime.errors import SpectrError
from spectr_runtime.files import file_sha256, replace, sync

# A group commit: the process waits for the disk once for many rows, which costs little. After a power cut, no more than
# these rows, or the rows of this time, are decoded again.
COMMIT_ROWS = 200
COMMIT_SECONDS = 1.0
FOREIGN = "The file or the inputs were changed: take a new run directory."


class Shard:
    """A shard that is open for writing by this process alone. Use ``try_open`` to get one.

    Attributes:
        folder: Folder of the shard's files.
        done: Ids of the records that have their rows.
        tally: Counts over these rows.
        damaged: Number of lines that had to be removed when the shard was opened.
        waiting: Number of records that are at the decoder.
        order: Ids of the records that were read so far, in input order.
        exhausted: Whether all records were read.
    """

    def __init__(self, folder: Path, lock: Lock, claim: Claim, *, packed: bool) -> None:
        """Open the journals of a locked and claimed folder, and read which records are done."""
        self.folder = folder
        self.tally = Tally()
        self.done: set[str] = set()
        self.waiting = 0
        self.order: list[str] = []
        self.exhausted = False
        self._lock = lock
        self._claim = claim
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
            folder: Folder of the shard's files, made if there is none.
            packed: Whether to compress the files when the shard is sealed.
        """
        for path in (folder.parent, folder):  # not above: a run directory that was moved away is not made again
            # Not with `exist_ok`, which looks whether it is a folder: by then it may have been moved away.
            with contextlib.suppress(FileExistsError):
                path.mkdir()
        lock = Lock.try_take(folder / LOCK)
        if lock is None:
            return None
        claim = None if (folder / SEAL).exists() else Claim.try_take(folder)
        if claim is not None and (folder / SEAL).exists():  # sealed by another machine in the meantime
            claim.release(sealed=True)
            claim = None
        if claim is None:
            lock.release()
            return None
        shard = Shard(folder, lock, claim, packed=packed)
        sync(folder)
        sync(folder.parent)
        return shard

    @property
    def complete(self) -> bool:
        """Whether every record of the shard has its row."""
        return self.exhausted and self.waiting == 0

    def add(self, row: rows.Row, line: bytes) -> None:
        """Append a row to the output or the errors, and commit now and then.

        Args:
            row: The row.
            line: The row as a line.
        """
        (self._errors if rows.is_failure(row) else self._output).append(line)
        self._count(row)
        self._uncommitted += 1
        if self._uncommitted >= COMMIT_ROWS or time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self._commit()

    def _count(self, row: rows.Row) -> None:
        self.done.add(rows.key(row))
        self.tally.add(row)

    def _commit(self) -> None:
        self._claim.check()
        self._output.sync()
        self._errors.sync()
        self._uncommitted = 0
        self._committed_at = time.monotonic()

    def seal(self) -> None:
        """Put the rows into input order, write the seal with their counts and hashes, and close the shard.

        Raises:
            Interrupted: Another process has taken the shard over.
            SpectrError: A record has no row, or a row no record.
        """
        self._commit()
        order = {key: index for index, key in enumerate(self.order)}
        plain = [self.folder / name for name in PARTS]
        found = sum(_sort(path, order) for path in plain if path.stat().st_size)
        if found != len(order):
            raise SpectrError(f"{self.folder} holds rows of {found} records, not of {len(order)}.", hint=FOREIGN)
        files = [journal.pack(path) for path in plain] if self._packed else plain
        Seal(len(self.order), self.tally, {path.name: file_sha256(path) for path in files}).write(self.folder)
        for path in plain if self._packed else ():
            path.unlink()
        self.close(sealed=True)

    def close(self, *, sealed: bool = False) -> None:
        """Write everything to the disk, close the files, and release the shard for other processes."""
        self._output.close()
        self._errors.close()
        self._claim.release(sealed=sealed)
        self._lock.release()


def reopen(folder: Path) -> int:
    """Remove the errors that may not recur from a shard, so that their records are decoded again.

    Returns:
        The number of these errors; 0 if another process has the shard.
    """
    errors = folder / ERRORS
    retryable = sum(map(rows.is_retryable, journal.rows(errors)))
    lock = Lock.try_take(folder / LOCK) if retryable else None
    if lock is None:
        return 0
    for path in (folder / name for name in PARTS):
        if not path.exists():  # packed: unpacked before the seal is removed, so that a kill in between loses no row
            replace(path, journal.lines(path))
    (folder / SEAL).unlink(missing_ok=True)
    replace(errors, (entry.line for entry in journal.entries(errors) if not rows.is_retryable(entry.row)))
    lock.release()
    return retryable


def _sort(path: Path, order: Mapping[str, int]) -> int:
    """Sort the lines of a part by the order of their records. If a record has two rows, the first is kept.

    Only offsets are kept in memory, and the lines are copied from the old file to the new one.

    Returns:
        The number of records that have a row.

    Raises:
        SpectrError: A row has an id that no record of the shard has.
    """
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
    return len(found)
