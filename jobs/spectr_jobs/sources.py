"""Sources: input files as numbered lines, read one at a time."""

from __future__ import annotations

import codecs
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from spectr_jobs.errors import InputError
from spectr_runtime.errors import UsageError

LONGEST_LINE = 64 * 2**20
_OTHER_ENCODINGS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """An input file.

    Attributes:
        path: Where it is.
        label: How messages and ids of records without one name it; its file name where no other input has the same.
    """

    path: Path
    label: str


@dataclasses.dataclass(frozen=True, slots=True)
class Line:
    """A line that is not blank: its number from 1, the byte offset where it starts, its text without its end."""

    number: int
    offset: int
    text: bytes


def resolve(paths: Sequence[str]) -> tuple[Source, ...]:
    """The inputs that a command line names, in its order.

    Raises:
        UsageError: A file is missing, is no file, or is named twice.
    """
    files = [Path(path) for path in paths]
    for file in files:
        if not file.is_file():
            what = "it is not a file" if file.exists() else "there is no such file"
            raise UsageError(f"Input {file}: {what}.", hint="Name files of JSON Lines.")
    _refuse_repeated(files)
    names = [file.name for file in files]
    shared = os.path.commonpath([os.path.abspath(file.parent) for file in files]) if files else ""
    return tuple(Source(file, file.name if names.count(file.name) == 1 else _below(file, shared)) for file in files)


def _refuse_repeated(files: Iterable[Path]) -> None:
    seen: dict[Path, Path] = {}
    for file in files:
        if (first := seen.setdefault(file.resolve(), file)) is not file:
            raise UsageError(f"Input {file} is the same file as {first}.", hint="Name it once.")


def _below(file: Path, folder: str) -> str:
    return Path(os.path.relpath(file, folder)).as_posix()


def lines(source: Source, offset: int = 0, number: int = 1) -> Iterator[Line]:
    """Lines that are not blank, from a byte offset on.

    Args:
        source: The file.
        offset: Where a line starts.
        number: Number of that line.

    Raises:
        InputError: A line is too long to be a record, or the file is UTF-16 or UTF-32.
    """
    with source.path.open("rb") as file:
        file.seek(offset)
        while text := file.readline(LONGEST_LINE + 1):
            if len(text) > LONGEST_LINE:
                raise InputError(
                    f"{source.label}:{number}: line: got more than {LONGEST_LINE >> 20} MiB, allowed one record.",
                    hint="The input must be JSON Lines.",
                )
            if stripped := (_without_bom(source, text) if offset == 0 else text).strip():
                yield Line(number, offset, stripped)
            offset += len(text)
            number += 1


def _without_bom(source: Source, text: bytes) -> bytes:
    if text.startswith(_OTHER_ENCODINGS):
        raise InputError(
            f"{source.label} is UTF-16 or UTF-32; allowed is UTF-8.",
            hint=f"Convert it: `iconv -f UTF-16 -t UTF-8 {source.path}`.",
        )
    return text.removeprefix(codecs.BOM_UTF8)
