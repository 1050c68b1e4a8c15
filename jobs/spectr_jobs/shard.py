"""A shard: a fixed run of records of the input, its rows so far, and its seal.

What is done is what its files hold: the ids in the output plus the ids in the errors. Nothing else is believed.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from spectr_jobs import journal, rows
from spectr_jobs.journal import Journal
from spectr_jobs.run_directory import PARTS
from spectr_jobs.tally import Tally

COMMIT_ROWS = 200
COMMIT_SECONDS = 1.0


class Shard:
    """A shard that is open for writing.

    Attributes:
        done: Ids whose rows are in its files.
        tally: Counts over those rows.
        waiting: Records that were handed to the decoder and have not come back.
        order: Ids of its records as far as they were read, in input order.
        exhausted: Whether all of them were read.
    """

    def __init__(self, folder: Path) -> None:
        """Open the shard, make its folder if there is none, and read what is done."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.tally = Tally()
        self.done: set[str] = set()
        self.waiting = 0
        self.order: list[str] = []
        self.exhausted = False
        self._output, self._errors = (Journal(folder / name) for name in PARTS)
        self._uncommitted = 0
        self._committed_at = time.monotonic()
        for name in PARTS:
            for _, _, row in journal.rows(folder / name):
                self.done.add(rows.key(row))
                self.tally.add(row)

    @property
    def complete(self) -> bool:
        """Whether every record of the shard has its row."""
        return self.exhausted and self.waiting == 0

    def add(self, row: rows.Row, *, failed: bool) -> None:
        """Append a row, and commit now and then."""
        (self._errors if failed else self._output).append(rows.encode(row))
        self.done.add(rows.key(row))
        self.tally.add(row)
        self._uncommitted += 1
        if self._uncommitted >= COMMIT_ROWS or time.monotonic() - self._committed_at >= COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Wait until the rows so far are on the disk."""
        self._output.sync()
        self._errors.sync()
        self._uncommitted = 0
        self._committed_at = time.monotonic()

    def seal(self) -> None:
        """Put the rows into input order and leave the shard's counts beside them."""
        self.close()
        place = {key: index for index, key in enumerate(self.order)}
        for name in PARTS:
            _sort(self.folder / name, place)
        counts = {"records": len(self.order), "tally": self.tally.to_json()}
        journal.replace(self.folder / "sealed.json", iter([json.dumps(counts).encode() + b"\n"]))

    def close(self) -> None:
        """Sync and close the files."""
        self._output.close()
        self._errors.close()


def _sort(path: Path, place: Mapping[str, int]) -> None:
    found = {place[rows.key(row)]: (offset, len(line)) for offset, line, row in journal.rows(path)}
    with path.open("rb") as file:

        def pieces() -> Iterator[bytes]:
            for index in sorted(found):
                offset, size = found[index]
                file.seek(offset)
                yield file.read(size)

        journal.replace(path, pieces())
