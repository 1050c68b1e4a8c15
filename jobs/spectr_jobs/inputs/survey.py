"""The survey: one pass over the inputs before anything is decoded.

It checks every record, refuses ids that occur twice, and cuts the records into shards. It keeps eight bytes per record
in memory.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from array import array
from collections.abc import Iterator, Mapping, Sequence

from spectr_jobs.errors import InputError
from spectr_jobs.inputs.form import require_lines
from spectr_jobs.inputs.reader import START, Fingerprint, Position, Reader, Stretch, shape_of
from spectr_jobs.inputs.sources import LONGEST_LINE, Line, Source, fingerprint, stamp
from spectr_jobs.records.record import BadRecord, Origin, Record, Shape
from spectr_runtime.errors import SpectrError
from spectr_runtime.rows.request import SamplingParams

SHOWN_REFUSALS = 5
SHARD_BYTES = LONGEST_LINE  # of the lines of a shard, unless a single line has more
NO_RECORD = "The input must be JSON Lines, one record per line, or a table, one record per row."


@dataclasses.dataclass(frozen=True, slots=True)
class InputFile:
    """An input file as the manifest of a run describes it.

    Attributes:
        path: A local path or a URL.
        label: Name of the file in messages.
        shape: Shape of the file; see ``reader.shape_of``.
        fingerprint: A text that changes with the content.
        records: Number of records of each shape.
        columns: For a table, the column of every field that has another name there.
        partition: Fields that the folders of a partitioned table stand for.
    """

    path: str
    label: str
    shape: Shape
    fingerprint: str
    records: Mapping[Shape, int]
    columns: Mapping[str, str]
    partition: Mapping[str, str | None]

    @staticmethod
    def of(source: Source, shape: Shape, records: Mapping[Shape, int]) -> InputFile:
        """Describe a source."""
        return InputFile(
            source.path, source.label, shape, fingerprint(source), records, source.columns, source.partition
        )

    @property
    def source(self) -> Source:
        """The source, from which the file can be read again."""
        return Source(self.path, self.label, self.columns, self.partition)

    def at(self, path: str) -> InputFile:
        """Return the same file with another path."""
        return dataclasses.replace(self, path=path)


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """The result of a survey.

    Attributes:
        files: The inputs.
        shards: The records of every shard.
        records: Number of records, the bad ones included.
        bad: Number of records that cannot be decoded.
        refusals: Error messages of the first bad records.
    """

    files: tuple[InputFile, ...]
    shards: tuple[Stretch, ...]
    records: int
    bad: int
    refusals: tuple[str, ...]


def survey(inputs: Sequence[Source], defaults: SamplingParams, *, shard_size: int, limit: int | None) -> Survey:
    """Check all records and cut them into shards.

    A shard ends after so many records, or earlier where its lines would fill the memory, since a worker reads the whole
    shard before it decodes the first record.

    Args:
        inputs: The sources, in order.
        defaults: Sampling parameters of records that do not set their own.
        shard_size: Records per shard.
        limit: Number of records to take, from the first on; None for all.

    Raises:
        InputError: There is no record, a file is not JSON Lines, or an id occurs twice.
        SpectrError: A file changed during the survey.
    """
    stamps = [stamp(source) for source in inputs]
    for source in inputs:
        require_lines(source)
    shapes = [shape_of(source) for source in inputs]
    cutter, census, reader = _Cutter(shard_size), _Census(len(inputs)), Reader(inputs, shapes, defaults)
    for position, line in reader.lines(START, limit):
        cutter.add(position, line)
        census.count(position, reader.parse(position, line))
    if not census.total:
        raise InputError(f"{_listed(inputs)}: no record.", hint=NO_RECORD)
    if repeated := census.keys.repeated():
        again = Reader(inputs, shapes, defaults).read(START, census.total)
        _refuse_duplicates((item.record.origin for item in again), repeated)
    files = tuple(InputFile.of(*file) for file in zip(inputs, shapes, census.shapes, strict=True))
    for source, before in zip(inputs, stamps, strict=True):
        if stamp(source) != before:
            message = f"Input {source.path} changed while it was read."
            raise SpectrError(message, hint="Wait until it is complete, then run the same command again.")
    return Survey(files, tuple(cutter.shards()), census.total, census.bad, tuple(census.refusals))


def _listed(inputs: Sequence[Source]) -> str:
    return ", ".join(source.path for source in inputs)


class _Census:
    """Counts records.

    Attributes:
        total: Number of records.
        bad: Number of those that cannot be decoded.
        refusals: Error messages of the first of these.
        shapes: Number of records of each shape, by source.
        keys: The ids.

    Args:
        sources: Number of sources.
    """

    def __init__(self, sources: int) -> None:
        self.total = self.bad = 0
        self.refusals: list[str] = []
        self.shapes: list[dict[Shape, int]] = [{} for _ in range(sources)]
        self.keys = _Keys()

    def count(self, position: Position, record: Record | BadRecord) -> None:
        """Count a record."""
        origin, shapes = record.origin, self.shapes[position.source]
        self.total += 1
        shapes[origin.shape] = shapes.get(origin.shape, 0) + 1
        self.keys.add(origin.key)
        if isinstance(record, BadRecord):
            self.bad += 1
            self.refusals += [str(record.error)] if self.bad <= SHOWN_REFUSALS else []


class _Cutter:
    """Cuts lines into shards.

    Args:
        size: The largest number of records of a shard.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._done: list[Stretch] = []
        self._start: Position | None = None
        self._clear()

    def add(self, position: Position, line: Line) -> None:
        """Add a line, to the shard before it or as the first of a new one."""
        if self._records == self._size or self._bytes + len(line.text) > SHARD_BYTES:
            self._cut()
        if self._start is None:
            self._start = position
        self._records += 1
        self._bytes += len(line.text)
        self._fingerprint.add(line)

    def shards(self) -> list[Stretch]:
        """Return all shards."""
        self._cut()
        return self._done

    def _cut(self) -> None:
        if self._start is not None:
            self._done.append(Stretch(self._start, self._records, str(self._fingerprint)))
        self._clear()

    def _clear(self) -> None:
        self._start, self._records, self._bytes, self._fingerprint = None, 0, 0, Fingerprint()


class _Keys:
    """64-bit hashes of ids, eight bytes each.

    They are kept in 256 buckets, so that sorting them one bucket at a time needs little more memory.
    """

    def __init__(self) -> None:
        self._buckets: list[array[int]] = [array("Q") for _ in range(256)]

    def add(self, key: str) -> None:
        value = _hash(key)
        self._buckets[value & 255].append(value)

    def repeated(self) -> set[int]:
        """Return the hashes that occur more than once; rarely, two different ids have the same hash."""
        return {a for bucket in self._buckets for a, b in itertools.pairwise(sorted(bucket)) if a == b}


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _refuse_duplicates(found: Iterator[Origin], suspects: set[int]) -> None:
    """Compare the ids themselves, among those whose hash is suspect.

    Raises:
        InputError: An id occurs twice.
    """
    first: dict[str, str] = {}
    pairs: list[str] = []
    for origin in found:
        if _hash(origin.key) not in suspects:
            continue
        if (location := first.setdefault(origin.key, origin.location)) != origin.location:
            pairs.append(f"{origin.key!r} at {location} and {origin.location}")
    if pairs:
        more = [f"and {len(pairs) - SHOWN_REFUSALS:,} more"] if len(pairs) > SHOWN_REFUSALS else []
        shown = "; ".join(pairs[:SHOWN_REFUSALS] + more)
        raise InputError(f"Ids occur twice: {shown}.", hint="Give every record an id of its own.")
