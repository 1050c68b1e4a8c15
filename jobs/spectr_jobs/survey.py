"""The survey: one streaming pass over the inputs before anything is decoded.

It checks every record, refuses ids that occur twice, and cuts the input into shards. It keeps eight bytes per record.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
from array import array
from collections.abc import Iterator, Mapping, Sequence

from spectr_jobs import records, sources
from spectr_jobs.errors import InputError
from spectr_jobs.records import BadRecord, Record, Shape
from spectr_jobs.sources import Source
from spectr_runtime.bundle import file_sha256
from spectr_runtime.errors import RequestError
from spectr_runtime.request import SamplingParams

SHOWN_REFUSALS = 5


@dataclasses.dataclass(frozen=True, slots=True)
class InputFile:
    """An input as the run directory remembers it.

    Attributes:
        path: Where it is.
        label: How messages name it.
        shape: Shape of its first record.
        bytes: Its size.
        sha256: Hash of its content.
        records: Records by shape.
    """

    path: str
    label: str
    shape: Shape
    bytes: int
    sha256: str
    records: Mapping[Shape, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Position:
    """Where a shard starts: index of the source, byte offset of a line, number of that line."""

    source: int
    offset: int
    line: int


@dataclasses.dataclass(frozen=True, slots=True)
class Survey:
    """What the inputs hold.

    Attributes:
        files: The inputs.
        shards: Where every shard starts.
        records: Records in all, the bad ones too.
        bad: Records that cannot be decoded.
        refusals: Messages of the first of them.
    """

    files: tuple[InputFile, ...]
    shards: tuple[Position, ...]
    records: int
    bad: int
    refusals: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """A record with the place where its line starts."""

    record: Record | BadRecord
    position: Position


def shape_of(source: Source) -> Shape:
    """The shape of a file, told by its first record that tells; lines of the other shape may stand among the others."""
    for line in sources.lines(source):
        try:
            shape = records.detect(records.load(line.text))
        except RequestError:
            continue
        if shape is not None:
            return shape
    return "simple"


def read(
    inputs: Sequence[Source], shapes: Sequence[Shape], start: Position, defaults: SamplingParams
) -> Iterator[Item]:
    """Every record from a position on, read as it is asked for."""
    offset, number = start.offset, start.line
    for index in range(start.source, len(inputs)):
        source, shape = inputs[index], shapes[index]
        for line in sources.lines(source, offset, number):
            record = records.parse(line.text, f"{source.label}:{line.number}", shape, defaults)
            yield Item(record, Position(index, line.offset, line.number))
        offset, number = 0, 1


def survey(inputs: Sequence[Source], defaults: SamplingParams, *, shard_size: int, limit: int | None) -> Survey:
    """Check all records and cut them into shards.

    Args:
        inputs: The files, in order.
        defaults: Sampling parameters of records that do not say.
        shard_size: Records per shard.
        limit: Take only so many records, from the first on.

    Raises:
        InputError: There is no record, or an id occurs twice.
    """
    shapes = [shape_of(source) for source in inputs]
    counts: list[dict[Shape, int]] = [{} for _ in inputs]
    starts: list[Position] = []
    refusals: list[str] = []
    bad = 0
    keys = _Keys()
    for number, item in enumerate(itertools.islice(read(inputs, shapes, Position(0, 0, 1), defaults), limit)):
        if number % shard_size == 0:
            starts.append(item.position)
        origin, count = item.record.origin, counts[item.position.source]
        count[origin.shape] = count.get(origin.shape, 0) + 1
        keys.add(origin.key)
        if isinstance(item.record, BadRecord):
            bad += 1
            refusals += [str(item.record.error)] if bad <= SHOWN_REFUSALS else []
    if not starts:
        raise InputError(f"{_listed(inputs)}: no record.", hint="The input must be JSON Lines, one record per line.")
    total = sum(sum(count.values()) for count in counts)
    if repeated := keys.repeated():
        items = itertools.islice(read(inputs, shapes, starts[0], defaults), total)
        _refuse_duplicates((item.record for item in items), repeated)
    files = tuple(_file(source, shape, count) for source, shape, count in zip(inputs, shapes, counts, strict=True))
    return Survey(files, tuple(starts), total, bad, tuple(refusals))


def _listed(inputs: Sequence[Source]) -> str:
    return ", ".join(str(source.path) for source in inputs)


def _file(source: Source, shape: Shape, count: Mapping[Shape, int]) -> InputFile:
    size = source.path.stat().st_size
    return InputFile(str(source.path), source.label, shape, size, file_sha256(source.path), count)


class _Keys:
    """64-bit hashes of ids in 256 buckets: eight bytes an id, and sorting needs little beside."""

    def __init__(self) -> None:
        self._buckets: list[array[int]] = [array("Q") for _ in range(256)]

    def add(self, key: str) -> None:
        value = _hash(key)
        self._buckets[value & 255].append(value)

    def repeated(self) -> set[int]:
        """Hashes that occur more than once; two different ids may share one."""
        return {a for bucket in self._buckets for a, b in itertools.pairwise(sorted(bucket)) if a == b}


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def _refuse_duplicates(found: Iterator[Record | BadRecord], suspects: set[int]) -> None:
    first: dict[str, str] = {}
    pairs: list[str] = []
    for record in found:
        origin = record.origin
        if _hash(origin.key) not in suspects:
            continue
        if (place := first.setdefault(origin.key, origin.place)) != origin.place:
            pairs.append(f"{origin.key!r} at {place} and {origin.place}")
    if pairs:
        shown = "; ".join(pairs[:SHOWN_REFUSALS]) + (
            f"; and {len(pairs) - SHOWN_REFUSALS} more" if len(pairs) > SHOWN_REFUSALS else ""
        )
        raise InputError(f"Ids occur twice: {shown}.", hint="Give every record an id of its own.")
