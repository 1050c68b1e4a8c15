"""The worker: the one path from records through the decoder into shards, whoever drives it.

Records are read as the decoder asks for them, and rows are written as they finish, so memory does not grow with the
input. A shard's last rows are decoded beside the next shard's first, so that the batch stays full.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from spectr_jobs.records import rows
from spectr_jobs.records.record import BadRecord, Record
from spectr_jobs.run_directory.directory import RunDirectory, ShardReader
from spectr_jobs.run_directory.sessions import DONE
from spectr_jobs.run_directory.shard import Shard
from spectr_jobs.work.models import RunDecoder
from spectr_jobs.work.session import Session
from spectr_jobs.work.stop import Stop
from spectr_runtime.rows.request import Outcome, Request


def decode_shards(
    run: RunDirectory, decoder: RunDecoder, shards: Iterable[int], session: Session, stop: Stop
) -> list[int]:
    """Decode shards, and close the session however the work ends.

    Args:
        run: The run directory.
        decoder: Opened for the run's bundle and seed.
        shards: Their numbers, ascending; taken one by one as the decoder asks for more records.
        session: Counts and reports.
        stop: Says when to take no more records.

    Returns:
        Shards that were left out because another process has them.
    """
    worker = Worker(run, decoder, session, stop)
    try:
        worker.decode(shards)
    except BaseException as error:
        session.close(type(error).__name__)
        raise
    session.close(stop.reason or DONE)
    return worker.busy


@dataclasses.dataclass(frozen=True, slots=True)
class Pending:
    """A record whose requests are at the decoder.

    Attributes:
        record: The record.
        shard: The shard that its row belongs to.
        outcomes: What came back so far.
    """

    record: Record
    shard: Shard
    outcomes: list[Outcome] = dataclasses.field(default_factory=list)


class Worker:
    """Decodes shards of a run.

    Attributes:
        busy: Shards that were left out because another process has them.
    """

    def __init__(self, run: RunDirectory, decoder: RunDecoder, session: Session, stop: Stop) -> None:
        """Prepare; see ``decode_shards``."""
        self.busy: list[int] = []
        self._run = run
        self._decoder = decoder
        self._session = session
        self._stop = stop
        self._open: set[Shard] = set()
        self._waiting: dict[str, Pending] = {}

    def decode(self, shards: Iterable[int]) -> None:
        """Decode shards, and seal each when its last row is written, until all are done or the worker is to stop."""
        try:
            with self._stop.gently():
                for outcome in self._decoder.generate(self._requests(shards)):
                    self._take(outcome)
        finally:
            for shard in self._open:
                shard.close()

    def _requests(self, shards: Iterable[int]) -> Iterator[Request]:
        reader = ShardReader(self._run.manifest)
        for number in shards:
            if self._run.is_sealed(number):
                continue
            if (shard := self._opened(number)) is None:
                continue
            for record in reader.read(number):
                if self._stop.reason is not None:
                    return
                shard.order.append(record.origin.key)
                if record.origin.key not in shard.done:
                    yield from self._admit(record, shard)
            shard.exhausted = True
            self._seal_if_complete(shard)

    def _opened(self, number: int) -> Shard | None:
        packed = self._run.manifest.terms.compress is not None
        shard = Shard.try_open(self._run.shard(number), packed=packed)
        if shard is None:
            self.busy.append(number)
            return None
        self._open.add(shard)
        self._session.opened(shard)
        return shard

    def _admit(self, record: Record | BadRecord, shard: Shard) -> Iterator[Request]:
        """Yield the requests of a record, or write its line of the errors file if it cannot be decoded."""
        if isinstance(record, BadRecord):
            self._write(rows.error_row(record, seed=self._run.manifest.terms.seed), shard)
            return
        self._waiting[record.origin.key] = Pending(record, shard)
        shard.waiting += 1
        yield from record.requests

    def _take(self, outcome: Outcome) -> None:
        """Keep what came back of a record, and write its row once all of its outcomes are there."""
        pending = self._waiting[outcome.id]
        pending.outcomes.append(outcome)
        if len(pending.outcomes) < pending.record.size:
            return
        del self._waiting[outcome.id]
        pending.shard.waiting -= 1
        manifest = self._run.manifest
        row = rows.row_of(pending.record, pending.outcomes, seed=manifest.terms.seed, created=manifest.created)
        self._write(row, pending.shard)
        self._seal_if_complete(pending.shard)

    def _write(self, row: rows.Row, shard: Shard) -> None:
        line = rows.encode(row)
        shard.add(row, line)
        self._session.row(row, line)

    def _seal_if_complete(self, shard: Shard) -> None:
        if shard.complete:
            self._open.discard(shard)
            shard.seal()
            self._session.sealed(shard)
