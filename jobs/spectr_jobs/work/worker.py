"""The worker: the one path from records through the decoder into shards, which all drivers take.

The worker reads records as the decoder takes requests, up to five batches ahead, and writes rows when their completions
finish, so memory does not grow with the input. The last records of a shard are decoded together with the first ones of
the next shard, so that the batch stays full.

All of that is done while the engines are at work, on a thread that the decoder has for it: from the first request to
the end of the decoding, that thread alone advances the shards, reads records, opens, fills and seals shards, and writes
to the session. The main thread runs the models and handles signals. When a signal closes the intake, records that were
read ahead and have no room in the batch yet are not decoded.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from spectr_jobs.errors import InputChanged
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
    run: RunDirectory, decoder: RunDecoder, shards: Iterable[int], session: Session, stop: Stop, skipped: Skipped
) -> None:
    """Decode shards, and close the session however the work ends.

    Args:
        run: The run directory.
        decoder: The decoder, opened for the run's bundle and seed.
        shards: Numbers of the shards, ascending. The iterator is advanced up to five batches of records before there is
            room for those of the next shard.
        session: Counts the rows and shows the progress.
        stop: Says when to take no more records.
        skipped: Receives the shards that were not decoded, while the work goes on.
    """
    worker = Worker(run, decoder, session, stop, skipped)
    try:
        worker.decode(shards)
    except BaseException as error:
        session.close(type(error).__name__)
        raise
    session.close(stop.reason or DONE)


@dataclasses.dataclass(frozen=True, slots=True)
class Skipped:
    """The shards that a worker did not decode.

    Attributes:
        busy: Those that another process has.
        changed: Those whose input changed, with the errors that say so.
    """

    busy: list[int] = dataclasses.field(default_factory=list)
    changed: dict[int, InputChanged] = dataclasses.field(default_factory=dict)

    def add(self, other: Skipped) -> None:
        """Add the shards that another worker did not decode."""
        self.busy.extend(other.busy)
        self.changed.update(other.changed)


@dataclasses.dataclass(frozen=True, slots=True)
class Pending:
    """A record whose requests are at the decoder.

    Attributes:
        record: The record.
        shard: The shard of the record.
        outcomes: The outcomes of its requests that came back so far, in any order.
    """

    record: Record
    shard: Shard
    outcomes: list[Outcome] = dataclasses.field(default_factory=list)


class Worker:
    """Decodes shards of a run; see ``decode_shards``."""

    def __init__(self, run: RunDirectory, decoder: RunDecoder, session: Session, stop: Stop, skipped: Skipped) -> None:
        """Take the arguments of ``decode_shards``."""
        self._run = run
        self._skipped = skipped
        self._decoder = decoder
        self._session = session
        self._stop = stop
        self._open: set[Shard] = set()
        self._waiting: dict[str, Pending] = {}

    def decode(self, shards: Iterable[int]) -> None:
        """Decode shards and seal each of them after its last row, until all are done or the worker is to stop."""
        try:
            with self._stop.gently():
                self._decoder.run(self._requests(shards), self._take, lambda: self._stop.reason is not None)
        finally:
            for shard in self._open:
                shard.close()

    def _requests(self, shards: Iterable[int]) -> Iterator[Request]:
        """Yield the requests of all records that have no row yet; open each shard before its first record."""
        reader = ShardReader(self._run.manifest)
        for number in shards:
            if self._run.is_sealed(number):
                continue
            if (shard := self._opened(number)) is None:
                continue
            try:
                records = reader.read(number)
            except InputChanged as error:
                self._skipped.changed[number] = error
                self._open.discard(shard)
                shard.close()
                continue
            for record in records:
                if self._stop.reason is not None:
                    return
                shard.order.append(record.origin.key)
                if record.origin.key not in shard.done:
                    yield from self._admit(record, shard)
            shard.exhausted = True
            self._seal_if_complete(shard)

    def _opened(self, number: int) -> Shard | None:
        """Open a shard, or note that another process has it and return None."""
        packed = self._run.manifest.terms.compress is not None
        shard = Shard.try_open(self._run.shard(number), packed=packed)
        if shard is None:
            self._skipped.busy.append(number)
            return None
        self._open.add(shard)
        self._session.opened(shard)
        return shard

    def _admit(self, record: Record | BadRecord, shard: Shard) -> Iterator[Request]:
        """Yield the requests of a record. If the record cannot be decoded, write its row to the errors instead."""
        if isinstance(record, BadRecord):
            self._write(rows.error_row(record, seed=self._run.manifest.terms.seed), shard)
            return
        self._waiting[record.origin.key] = Pending(record, shard)
        shard.waiting += 1
        yield from self._session.watcher.watched(record.requests)

    def _take(self, outcome: Outcome) -> None:
        """Keep an outcome of a record, and write the record's row once all of its outcomes are there."""
        self._session.ended(outcome)
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
