"""The load: how much there is to decode, and a sample of it."""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from spectr_jobs.errors import InputChanged
from spectr_jobs.inputs.sources import only_forward
from spectr_jobs.records.record import Record
from spectr_jobs.run_directory.directory import RunDirectory, ShardReader
from spectr_runtime.errors import RequestError
from spectr_runtime.rows.request import Prompt

SHARDS = 4  # of a run that are looked into
SAMPLE = 128  # records that are drawn from these
TOKENIZED = 128  # records whose lengths are looked at


class Encoder(Protocol):
    """The part of the tokenizer that tells how long prompts are."""

    def encode(self, prompt: Prompt, most: int) -> tuple[int, ...]:
        """Return the token ids of a prompt, at most so many; a longer one is refused."""
        ...


class Lengths(NamedTuple):
    """How many tokens rows have.

    Attributes:
        prompt: The mean number of tokens of a prompt.
        limit: The mean number of those that may be written after it.
        longest: The largest number of both together.
    """

    prompt: float
    limit: float
    longest: int


@dataclasses.dataclass(slots=True)
class Load:
    """The records that are left to decode: those that can be decoded and have no row yet.

    Attributes:
        records: Number of these records.
        completions: Number of their completions.
        most_tokens: Sum of the token limits of these completions.
        sample: Some of the records, each drawn with the same probability.
    """

    records: int = 0
    completions: int = 0
    most_tokens: int = 0
    sample: list[Record] = dataclasses.field(default_factory=list)

    def add(self, record: Record, size: int, generator: random.Random) -> None:
        """Count a record, and draw it into a sample of a given size (Vitter, 1985, algorithm R).

        Args:
            record: The record.
            size: Records of the full sample.
            generator: Source of the random numbers.
        """
        self.records += 1
        self.completions += record.size
        self.most_tokens += record.size * record.wanted.params.max_tokens
        if len(self.sample) < size:
            self.sample.append(record)
        elif (index := generator.randrange(self.records)) < size:
            self.sample[index] = record

    def times(self, factor: float) -> Load:
        """Return a load of so many times the records, with the same sample."""
        records, completions, most = (round(factor * n) for n in (self.records, self.completions, self.most_tokens))
        return Load(records, completions, most, self.sample)

    def lengths(self, encoder: Encoder, most: int) -> Lengths:
        """Return the lengths of the rows of the sample.

        A prompt that cannot be tokenized counts for nothing.

        Args:
            encoder: The tokenizer.
            most: The most tokens of a row.
        """
        found = list[tuple[int, int]]()
        for record in self.sample[:TOKENIZED]:
            for prompt in record.prompts:
                try:
                    tokens = len(encoder.encode(prompt, most))
                except RequestError:
                    continue
                found.append((tokens, min(record.wanted.params.max_tokens, most - tokens)))
        if not found:
            return Lengths(1.0, 1.0, most)
        prompts, limits = zip(*found, strict=True)
        return Lengths(statistics.fmean(prompts), statistics.fmean(limits), max(map(sum, found)))


def look_into(run: RunDirectory, shards: Sequence[int]) -> Load:
    """Return about what is left to decode in some shards of a run, from a few of them.

    Args:
        run: The run directory.
        shards: Their numbers, ascending.
    """
    load, generator, seen = Load(), random.Random(0), 0
    reader = ShardReader(run.manifest)
    for number in _some(run, shards):
        try:
            records = reader.read(number)
        except InputChanged:  # whoever comes to decode the shard says so
            continue
        done = run.done(number)
        for record in records:
            if record.origin.key not in done:
                seen += 1
                if isinstance(record, Record):
                    load.add(record, SAMPLE, generator)
    generator.shuffle(load.sample)
    return load.times(_left(run, shards) / seen) if seen else load


def _some(run: RunDirectory, shards: Sequence[int]) -> list[int]:
    """Return the shards to look into: a few from all over, or the first where reading the others takes reading all."""
    if len(shards) <= SHARDS or _is_slow(run):
        return [*shards[:SHARDS]]
    return [shards[index * (len(shards) - 1) // (SHARDS - 1)] for index in range(SHARDS)]


def _is_slow(run: RunDirectory) -> bool:
    """Return whether some input can only be read from its start on, or not at all."""
    try:
        return any(only_forward(file.source) for file in run.manifest.files)
    except InputChanged:
        return True


def _left(run: RunDirectory, shards: Sequence[int]) -> int:
    """Return how many records of some shards have no row."""
    tally = run.tally(shards)
    return sum(map(run.manifest.size_of, shards)) - tally.rows - tally.failed
