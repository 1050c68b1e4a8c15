"""Sources: the input files that a command line names, and their numbered lines.

A source is a local file or a URL that fsspec opens. It holds JSON Lines or a table, and may be compressed.
"""

from __future__ import annotations

import codecs
import collections
import contextlib
import dataclasses
import io
import os
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

from spectr_jobs.errors import InputChanged, InputError
from spectr_jobs.inputs import tables
from spectr_jobs.inputs.compression import Archive, Damaged, decompress, is_compressed, skip
from spectr_jobs.inputs.expansion import expand, partition_of
from spectr_jobs.inputs.stores import filesystem, is_remote, reaching, refusal, version
from spectr_jobs.inputs.tables import is_csv, is_table
from spectr_jobs.urls import identity, masked
from spectr_runtime.errors import UsageError
from spectr_runtime.files import file_sha256

LONGEST_LINE = 64 * 2**20  # bytes; a file with a longer line cannot be JSON Lines, and would fill the memory
# How files begin that are not UTF-8: with a mark, or with a sign and the zeros around it.
_OTHER_ENCODINGS = {
    rb"\xff\xfe\0\0|\0\0\xfe\xff": "UTF-32",
    rb"\xff\xfe|\xfe\xff": "UTF-16",
    rb"[^\0]\0\0\0": "UTF-32LE",
    rb"\0\0\0[^\0]": "UTF-32BE",
    rb"[^\0]\0": "UTF-16LE",
    rb"\0[^\0]": "UTF-16BE",
}


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """An input file.

    Attributes:
        path: A local path or a URL.
        label: Name of the source in messages, and in the ids of records that have none: its file name, with as many of
            its folders as are needed to tell it from the other sources. It holds nothing secret of a URL, and stays the
            same when a URL gets another signature.
        columns: For a table, the column of every field that has another name there.
        partition: Fields that the folders of a partitioned table stand for; plain records carry them.
    """

    path: str
    label: str
    columns: Mapping[str, str] = dataclasses.field(default_factory=dict)
    partition: Mapping[str, str | None] = dataclasses.field(default_factory=dict)

    @property
    def quoted(self) -> str:
        """The source as a command in a hint names it: its path, or of a URL its label."""
        return shlex.quote(self.label if is_remote(self.path) else self.path)


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line of a source that is not blank.

    Attributes:
        number: Number of the line, from 1; in a table, of the row.
        offset: Offset of the line's first byte, after decompression; in a table, the index of the row.
        text: The line without white space around it; in a table, the row as JSON.
    """

    number: int
    offset: int
    text: bytes


def resolve(names: Sequence[str], columns: Mapping[str, str] | None = None) -> tuple[Source, ...]:
    """Return the sources that a command line names, in its order. Folders and patterns give files alphabetically.

    Where they leave files out, the user is told; see ``expansion``.

    Args:
        names: Paths, folders, patterns, URLs.
        columns: The column of a table for every field that has another name there.

    Raises:
        UsageError: A name leads to no file, or two names lead to the same file.
    """
    found = [(name, path) for name in names for path in expand(name)]
    paths = [path for _, path in found]
    _refuse_repeated(paths)
    return tuple(
        Source(path, label, (columns or {}) if is_table(path) else {}, partition_of(name, path))
        for (name, path), label in zip(found, _labels(paths), strict=True)
    )


def _labels(paths: Sequence[str]) -> list[str]:
    """Return the shortest end of each path that tells it from the others: ``a.jsonl``, or ``one/a.jsonl``."""
    parts = [os.fsencode(_absolute(path)).decode("utf-8", "replace").split("/") for path in paths]
    labels: dict[int, str] = {}
    for length in range(1, max(map(len, parts), default=0) + 1):
        ends = ["/".join(part[-length:]) for part in parts]
        unique = {end for end, times in collections.Counter(ends).items() if times == 1}
        labels = {index: end for index, end in enumerate(ends) if end in unique} | labels
        if len(labels) == len(paths):
            break
    return [labels[index] for index in range(len(paths))]


def _refuse_repeated(paths: Iterable[str]) -> None:
    seen: dict[str, str] = {}
    for path in paths:
        first = seen.setdefault(_absolute(path), path)
        if first is not path:
            raise UsageError(f"Input {masked(path)} is the same file as {masked(first)}.", hint="Name it once.")


def _absolute(path: str) -> str:
    return identity(path) if is_remote(path) else Path(path).resolve().as_posix()


def fingerprint(source: Source) -> str:
    """Return a text that changes with the content of a source: its hash, or the version that its store reports."""
    if not is_remote(source.path):
        return f"sha256:{file_sha256(Path(source.path))}"
    return f"version:{version(source.path)}"


def stamp(source: Source) -> object:
    """Return a value that most likely changes with the content of a source, without reading the content."""
    if is_remote(source.path):
        return fingerprint(source)
    found = Path(source.path).stat()
    return found.st_ino, found.st_size, found.st_mtime_ns


def lines(source: Source, offset: int = 0, number: int = 1) -> Iterator[Line]:
    """Yield the lines of a source that are not blank, from a line on.

    Args:
        source: The source.
        offset: Offset of that line; see ``Line``.
        number: Number of that line.

    Raises:
        InputError: A line is too long to be a record, the file is UTF-16 or UTF-32, or its compression is damaged.
        InputChanged: The file is gone.
        SpectrError: The file's store cannot be reached.
    """
    with _reaching(source):
        yield from _table_lines(source, offset) if is_table(source.path) else _text_lines(source, offset, number)


def _reaching(source: Source) -> contextlib.AbstractContextManager[None]:
    return reaching(source.path) if is_remote(source.path) else contextlib.nullcontext()


def only_forward(source: Source) -> bool:
    """Return whether a line of a source can be reached only by reading everything before it."""
    if is_table(source.path):
        return is_csv(source.path)
    with _reaching(source), _open_raw(source.path) as raw:
        return is_compressed(raw)


def _text_lines(source: Source, offset: int, number: int) -> Iterator[Line]:
    with _open(source) as file:
        try:
            skip(file, offset)
        except Damaged as error:
            raise _damaged(source.label, error) from error
        while text := _readline(file, source, number):
            if stripped := (_without_bom(source, text) if offset == 0 else text).strip():
                yield Line(number, offset, stripped)
            offset += len(text)
            number += 1


def _table_lines(source: Source, start: int) -> Iterator[Line]:
    try:
        with _open(source) as file:
            if of_text := is_csv(source.path):
                _refuse_other_encodings(source, file.peek(4))
            for index, text in tables.rows(file, source.label, source.columns, start, of_text=of_text):
                yield Line(index + 1, index, text)
    except Damaged as error:
        raise _damaged(source.label, error) from error


def _open(source: Source) -> io.BufferedReader:
    try:
        return decompress(_open_raw(source.path), source.path)
    except Archive as error:
        raise InputError(
            f"{source.label} is a {error} archive; allowed are files.", hint="Unpack it, and name its files."
        ) from error
    except Damaged as error:
        raise _damaged(source.label, error) from error


def _open_raw(path: str) -> BinaryIO:
    try:
        if not is_remote(path):
            return Path(path).open("rb")
        store, inside = filesystem(path, "Reading")
        return io.BufferedReader(store.open(inside, "rb"))  # the files of fsspec ignore the limit of ``readline``
    except FileNotFoundError as error:
        if refusal(error):
            raise
        message = f"Input {masked(path)} is gone."
        raise InputChanged(message, hint="Put it back, then run the same command again.") from error


def _readline(file: BinaryIO, source: Source, number: int) -> bytes:
    try:
        text = file.readline(LONGEST_LINE + 1)
    except Damaged as error:
        raise _damaged(f"{source.label}:{number}", error) from error
    if len(text) > LONGEST_LINE:
        raise InputError(
            f"{source.label}:{number}: line: got more than {LONGEST_LINE >> 20} MiB, allowed one record.",
            hint="The input must be JSON Lines. If it is one JSON array, `jq -c '.[]'` makes lines of it.",
        )
    return text


def _damaged(where: str, error: Damaged) -> InputError:
    return InputError(f"{where}: damaged: {error}.", hint="Copy the file again.")


def _without_bom(source: Source, text: bytes) -> bytes:
    _refuse_other_encodings(source, text)
    return text.removeprefix(codecs.BOM_UTF8)


def _refuse_other_encodings(source: Source, start: bytes) -> None:
    encoding = next((name for mark, name in _OTHER_ENCODINGS.items() if re.match(mark, start)), None)
    if encoding is not None:
        copy = "utf8.csv" if is_csv(source.path) else "utf8.jsonl"
        raise InputError(
            f"{source.label} is {encoding}; allowed is UTF-8.",
            hint=f"Convert it: `iconv -f {encoding} -t UTF-8 {source.quoted} > {copy}`.",
        )
