"""The reader: the records of the inputs one after another, from any position on."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Iterator, Sequence

from spectr_jobs.inputs import sources
from spectr_jobs.inputs.sources import Line, Source
from spectr_jobs.records import record as records
from spectr_jobs.records.line import load
from spectr_jobs.records.record import BadRecord, Record, Shape
from spectr_runtime.errors import RequestError
from spectr_runtime.rows.request import SamplingParams


@dataclasses.dataclass(frozen=True, slots=True, order=True)
class Position:
    """The start of a line in the inputs.

    Attributes:
        source: Index of the source.
        offset: Offset of the line's first byte, after decompression; in a table, the index of the row.
        line: Number of the line, from 1.
    """

    source: int
    offset: int
    line: int


START = Position(0, 0, 1)


@dataclasses.dataclass(frozen=True, slots=True)
class Stretch:
    """Consecutive records of the inputs.

    Attributes:
        start: The start of the first record's line.
        records: Number of records.
        fingerprint: Hash of their lines, by which other lines in their place are noticed.
    """

    start: Position
    records: int
    fingerprint: str


class Fingerprint:
    """The hash of lines one after another: BLAKE2b over the length and the bytes of each."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, line: Line) -> None:
        """Add a line."""
        self._hash.update(len(line.text).to_bytes(8, "little") + line.text)

    def __str__(self) -> str:
        return self._hash.hexdigest()


@dataclasses.dataclass(frozen=True, slots=True)
class Item:
    """A record, and the start of its line."""

    record: Record | BadRecord
    position: Position


def shape_of(source: Source) -> Shape:
    """Return the shape of a source: that of its first record whose shape can be detected.

    Other lines may have the other shape. The shape of the source is that of lines whose own cannot be detected.
    """
    for line in sources.lines(source):
        try:
            shape = records.detect(load(line.text))
        except RequestError:
            continue
        if shape is not None:
            return shape
    return "simple"


class Reader:
    """Reads records from position to position.

    Asked for positions in ascending order, it reads a compressed file or a CSV file, which cannot be entered in the
    middle, only once.

    Args:
        inputs: The sources, in order. They are opened when they are needed.
        shapes: The shape of each source, for lines whose own shape cannot be detected.
        defaults: Sampling parameters of records that do not set their own.
    """

    def __init__(self, inputs: Sequence[Source], shapes: Sequence[Shape], defaults: SamplingParams) -> None:
        self._inputs = inputs
        self._shapes = shapes
        self._defaults = defaults
        self._stream: Iterator[tuple[Position, Line]] = iter(())
        self._next: tuple[Position, Line] | None = None
        self._only_forward = functools.cache(lambda index: sources.only_forward(inputs[index]))

    def read(self, start: Position, count: int | None) -> Iterator[Item]:
        """Yield records from a position on.

        Args:
            start: The start of a line.
            count: Number of records to read; None for all.
        """
        for position, line in self.lines(start, count):
            yield Item(self.parse(position, line), position)

    def lines(self, start: Position, count: int | None) -> Iterator[tuple[Position, Line]]:
        """Yield the lines of the same records, which ``parse`` turns into records."""
        self._move_to(start)
        for _ in itertools.count() if count is None else range(count):
            if self._next is None:
                return
            found = self._next
            self._advance()
            yield found

    def parse(self, position: Position, line: Line) -> Record | BadRecord:
        """Return the record of a line at a position."""
        source, shape = self._inputs[position.source], self._shapes[position.source]
        return records.parse(line.text, f"{source.label}:{line.number}", shape, self._defaults, source.partition)

    def _move_to(self, start: Position) -> None:
        if self._next is None or not self._leads_to(self._next[0], start):
            self._stream = self._lines(start)
            self._advance()
        while self._next is not None and self._next[0] < start:
            self._advance()

    def _leads_to(self, here: Position, start: Position) -> bool:
        """Return whether reading on from a position is the best way to another one.

        A plain file is not read on, but opened again at the right offset.
        """
        forward = here.source == start.source and here <= start
        return here == start or (forward and self._only_forward(start.source))

    def _advance(self) -> None:
        self._next = next(self._stream, None)

    def _lines(self, start: Position) -> Iterator[tuple[Position, Line]]:
        offset, number = start.offset, start.line
        for index in range(start.source, len(self._inputs)):
            for line in sources.lines(self._inputs[index], offset, number):
                yield Position(index, line.offset, line.number), line
            offset, number = 0, 1
