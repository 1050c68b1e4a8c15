"""A shard: a fixed run of records of the input, its rows so far, and its seal.

What is done is what its files hold: the ids in the output plus the ids in the errors. Nothing else is believed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectr_jobs.records import rows
from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.directory import PARTS
from spectr_jobs.run_directory.journal import Journal
from spectr_jobs.run_directory.lock import Lock
from spectr_runtime.errors import SpectrError
from spectr_runtime.files import file_sha256, sync

COMMIT_ROWS = 200
COMMIT_SECONDS = 1.0
SEAL = "sealed.json"
FOREIGN = "Somebody changed the file or the inputs: take a new run directory."


class Shard:
    """A shard that this process alone may write.

    Attributes:
        folder: Where its files are.
        done: Ids whose rows are in its files.
        tally: Counts over those rows.
        damaged: Lines that had to be taken out when it was opened.
        waiting: Records that were handed to the decoder and have not come back.
        order: Ids of its records as far as they were read, in input order.
        exhausted: Whether all of them were read.
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
            for _, _, row in journal.rows(folder / name):
                self.done.add(rows.key(row))
                self.tally.add(row)

    @staticmethod
    def try_open(folder: Path, *, packed: bool) -> Shard | None:
        """Open a shard for writing, or nothing if another process has it, or has just sealed it.

        Args:
            folder: Where its files are.
            packed: Whether they are compressed when it is sealed.
        """
        folder.mkdir(parents=True, exist_ok=True)
        lock = Lock.try_take(folder / "lock")
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

    def add(self, row: rows.Row, line: bytes, *, failed: bool) -> None:
        """Append a row, and commit now and then."""
        (self._errors if failed else self._output).append(line)
        self.done.add(rows.key(row))
        self.tally.add(row)
        self._uncommitted += 1
        if self._uncommitted >= COMMIT_ROWS or time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self._commit()

    def _commit(self) -> None:
        self._output.sync()
        self._errors.sync()
        self._uncommitted = 0
        self._committed_at = time.monotonic()

    def seal(self) -> None:
        """Put the rows into input order, leave their counts and hashes beside them, and let the shard go."""
        self._commit()
        place = {key: index for index, key in enumerate(self.order)}
        for name in PARTS:
            if (self.folder / name).stat().st_size:
                _sort(self.folder / name, place)
        plain = [self.folder / name for name in PARTS]
        files = [journal.pack(path) for path in plain] if self._packed else plain
        hashes = {path.name: file_sha256(path) for path in files}
        seal = {"records": len(self.order), "tally": self.tally.to_json(), "sha256": hashes}
        journal.replace(self.folder / SEAL, [json.dumps(seal).encode() + b"\n"])
        for path in plain if self._packed else ():
            path.unlink()
        self.close()

    def close(self) -> None:
        """Let the shard go, with what it has on the disk."""
        self._output.close()
        self._errors.close()
        self._lock.release()


def read_seal(folder: Path) -> dict[str, Any]:
    """What ``Shard.seal`` left: records, tally, hashes."""
    seal: dict[str, Any] = json.loads((folder / SEAL).read_text(encoding="utf-8"))
    return seal


def reopen(folder: Path) -> int:
    """Take the errors that may not come again out of a shard, so that their records are decoded again.

    Returns:
        How many there were; none if another process has the shard.
    """
    errors = folder / PARTS[1]
    retryable = sum(rows.is_retryable(row) for _, _, row in journal.rows(errors))
    lock = Lock.try_take(folder / "lock") if retryable else None
    if lock is None:
        return 0
    for path in (folder / name for name in PARTS):
        if not path.exists():  # packed: whole again before the seal goes, so that a kill between loses no row
            journal.replace(path, journal.lines(path))
    (folder / SEAL).unlink(missing_ok=True)
    journal.replace(errors, (line for _, line, row in journal.rows(errors) if not rows.is_retryable(row)))
    lock.release()
    return retryable


def _sort(path: Path, place: Mapping[str, int]) -> None:
    found: dict[int, tuple[int, int]] = {}
    for offset, line, row in journal.rows(path):
        if (key := rows.key(row)) not in place:
            raise SpectrError(
                f"{path} holds a row with the id {key!r}, which no record of the shard has.", hint=FOREIGN
            )
        found.setdefault(place[key], (offset, len(line)))
    with path.open("rb") as file:

        def pieces() -> Iterator[bytes]:
            for index in sorted(found):
                offset, size = found[index]
                file.seek(offset)
                yield file.read(size)

        journal.replace(path, pieces())
