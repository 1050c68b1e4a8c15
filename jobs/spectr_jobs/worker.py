"""The worker: the one path from records through the decoder into shards, for every driver.

Records are read as the decoder asks for them, and rows are written as they finish, so memory does not grow with the
input. A shard's last rows are decoded beside the next shard's first, so the batch stays full.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from spectr_jobs import rows
from spectr_jobs.records import BadRecord, Record, at_place
from spectr_jobs.run_directory import RunDirectory
from spectr_jobs.session import Session
from spectr_jobs.shard import Shard
from spectr_runtime.request import Completion, Outcome, Request


class Generator(Protocol):
    """What a worker needs of the decoder."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Outcome]:
        """Decode; pulls requests lazily and yields rows as they finish, in any order."""
        ...


class Worker:
    """Decodes shards of a run."""

    def __init__(self, run: RunDirectory, decoder: Generator, session: Session) -> None:
        """Prepare.

        Args:
            run: The run directory.
            decoder: Opened for the run's bundle and seed.
            session: Counts and reports.
        """
        self._run = run
        self._decoder = decoder
        self._session = session
        self._waiting: dict[str, tuple[Record, Shard]] = {}

    def decode(self, shards: Iterable[int]) -> None:
        """Decode shards and seal each when its last row is there.

        Args:
            shards: Their numbers.
        """
        for outcome in self._decoder.generate(self._requests(shards)):
            record, shard = self._waiting.pop(outcome.id)
            shard.waiting -= 1
            self._finish(record, shard, outcome)
            self._seal_if_complete(shard)

    def _requests(self, shards: Iterable[int]) -> Iterator[Request]:
        for number in shards:
            if self._run.is_sealed(number):
                continue
            shard = Shard(self._run.shard(number))
            self._session.found(shard.tally)
            for record in self._run.records(number):
                shard.order.append(record.origin.key)
                if record.origin.key in shard.done:
                    continue
                if isinstance(record, BadRecord):
                    self._fail(record, shard)
                    continue
                self._waiting[record.origin.key] = (record, shard)
                shard.waiting += 1
                yield record.request
            shard.exhausted = True
            self._seal_if_complete(shard)

    def _finish(self, record: Record, shard: Shard, outcome: Outcome) -> None:
        if not isinstance(outcome, Completion):
            self._fail(BadRecord(record.origin, at_place(outcome.error, record.origin.place)), shard)
            return
        manifest = self._run.manifest
        row = rows.completion_row(record, outcome, seed=manifest.seed, created=manifest.created)
        shard.add(row, failed=False)
        self._session.row(row)

    def _fail(self, bad: BadRecord, shard: Shard) -> None:
        row = rows.error_row(bad, seed=self._run.manifest.seed)
        shard.add(row, failed=True)
        self._session.row(row)

    def _seal_if_complete(self, shard: Shard) -> None:
        if shard.complete:
            shard.seal()
            self._session.event("sealed", shard=shard.folder.name, records=len(shard.order))
