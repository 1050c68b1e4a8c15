"""From a name on the command line to its files. A folder or a pattern leaves out what is no input.

Hidden files are what other programs leave behind: ``.ipynb_checkpoints``, ``._a.jsonl``. The files of a run are rows
and no inputs, also those of the very run that is about to begin inside of the folder.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import glob
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn
from urllib.parse import unquote

from spectr_jobs.console import say
from spectr_jobs.inputs.compression import PACKED
from spectr_jobs.inputs.stores import bare, filesystem, has_query, is_file, is_remote, reaching
from spectr_jobs.inputs.tables import CSV, PARQUET
from spectr_jobs.urls import masked
from spectr_runtime.errors import UsageError

LINES = (".jsonl", ".ndjson")
SUFFIXES = tuple(end + packed for end in (*LINES, *CSV) for packed in ("", *PACKED)) + PARQUET
# By these a run directory is known; ``run_directory.layout`` gives them their names.
LOCK, MANIFEST, OUTPUT = "lock", "manifest.json", "output.jsonl"
HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
Test = Callable[[str], bool]


@dataclasses.dataclass(slots=True)
class Sifted:
    """The files below a folder.

    Attributes:
        taken: The files to read, in alphabetical order.
        hidden: Number of files that are hidden, or lie in a hidden folder.
        runs: Number of files in each run directory.
        others: Number of files with each other ending.
    """

    taken: list[str] = dataclasses.field(default_factory=list)
    hidden: int = 0
    runs: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    others: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)

    @property
    def left_out(self) -> str:
        """What was left out, in words; an empty text for nothing."""
        endings = ", ".join(sorted(self.others))
        parts = [
            _counted(self.hidden, "hidden file"),
            *(_counted(count, "file") + f" of the run directory {run}" for run, count in sorted(self.runs.items())),
            _counted(self.others.total(), "file") + f" with other endings ({endings})",
        ]
        return ", ".join(part for part in parts if not part.startswith("0 "))


def _counted(count: int, name: str) -> str:
    return f"{count:,} {name}{'' if count == 1 else 's'}"


def expand(name: str) -> list[str]:
    """Return the paths of the files that a name stands for: a path, a folder, a pattern or a URL.

    Raises:
        UsageError: The name leads to no file, or is a run directory.
    """
    return _expand_remote(name) if is_remote(name) else _expand_local(name)


def _expand_local(name: str) -> list[str]:
    path = Path(name)
    if path.is_dir():
        if _is_run(name):
            _refuse_run(name)
        return _take(name, _files_below(name), str(path), _is_run)
    if path.is_file():
        return [name]
    if glob.has_magic(name):
        return _take_matching(name, filter(os.path.isfile, glob.glob(name, recursive=True)), _is_run)
    _refuse(name, "it is not a file" if path.exists() else "there is no such file")


def _files_below(folder: str) -> Iterator[str]:
    """Yield the files below a folder. Links are followed, but nothing is reached twice."""
    seen: set[str] = set()
    for above, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(one for one in folders if os.path.realpath(os.path.join(above, one)) not in seen)
        seen.update(os.path.realpath(os.path.join(above, one)) for one in ("", *folders))
        for path in (os.path.join(above, file) for file in sorted(files)):
            if os.path.isfile(path) and (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                yield path


def partition_of(name: str, path: str) -> dict[str, str | None]:
    """Return the fields that the folders of a partitioned table stand for: ``{"lang": "de"}`` of ``lang=de/a.jsonl``.

    Only folders below the one that was named count, or from the first placeholder of a pattern on. Names and values are
    written as Hive writes them, with ``%`` and a name of its own for null.

    Args:
        name: The name on the command line.
        path: One of the files that it stands for.
    """
    above, named = PurePosixPath(path).parent.parts, PurePosixPath(name).parts
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(above, named, strict=False))
    pairs = (part.partition("=") for part in above[sum(1 for _ in same) :])
    values = {unquote(field): unquote(value) for field, equals, value in pairs if field and equals}
    return {field: None if value == HIVE_NULL else value for field, value in values.items()}


def _expand_remote(url: str) -> list[str]:
    store, path = filesystem(url, "Reading")

    def is_run(folder: str) -> bool:
        manifest = f"{folder}/{MANIFEST}"
        return bool(store.isfile(manifest)) and _is_manifest(store.cat_file(manifest))

    with reaching(url):
        if (has_query(url) or bare(url).lower().endswith(SUFFIXES)) and is_file(store, path):
            return [url]
        if glob.has_magic(bare(url)):
            found = _take_matching(path, store.glob(path), is_run)
        elif store.isdir(path):
            path = path.rstrip("/")
            if is_run(path):
                _refuse_run(url)
            found = _take(url, store.find(path), path, is_run)
        elif is_file(store, path):
            return [url]
        else:
            _refuse(url, "there is no such file")
        return [_url_of(file, store, path, url) for file in found]


def _url_of(file: str, store: Any, path: str, url: str) -> str:
    """Return the URL of a file in a store: the URL that led to it, with the file's path for its own.

    Some stores would give a URL without the host, the user, or the store that theirs is a cache of.
    """
    stem, whole = path.rstrip("/"), url.rstrip("/")
    if stem and file.startswith(f"{stem}/"):
        return whole + file.removeprefix(stem)
    before = whole.removesuffix(stem)
    return before + file if whole.endswith(stem) and (stem or is_remote(before)) else str(store.unstrip_protocol(file))


def _take(name: str, files: Iterable[str], folder: str, is_run: Test) -> list[str]:
    """Take the files of a folder that can be read, and tell the user what is left out."""
    sifted = sift(files, folder, is_run, SUFFIXES)
    _tell(name, sifted)
    return sifted.taken or _refuse(name, f"the folder holds no file that ends in {', '.join(SUFFIXES)}")


def _take_matching(pattern: str, files: Iterable[str], is_run: Test) -> list[str]:
    """Take the files that a pattern matches, all of them if it names the files or hidden ones outright."""
    parts = PurePosixPath(pattern).parts
    outright = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    if not glob.has_magic(parts[-1]) or any(part.startswith(".") for part in parts[outright:]):
        found = sorted(files)
    else:
        sifted = sift(files, str(PurePosixPath(*parts[:outright])), is_run, ("",))
        _tell(pattern, sifted)
        found = sifted.taken
    return found or _refuse(pattern, "no file matches the pattern")


def sift(files: Iterable[str], folder: str, is_run: Test, suffixes: tuple[str, ...]) -> Sifted:
    """Sort out the files below a folder.

    Args:
        files: Their paths.
        folder: The folder.
        is_run: Whether a folder is a run directory.
        suffixes: Endings of the files to take, in small letters.
    """
    is_run, sifted = functools.cache(is_run), Sifted()
    for file in sorted(files):
        inside = PurePosixPath(os.path.relpath(file, folder))
        above = [str(one) for one in reversed(inside.parents)][1:]
        run = next((one for one in above if is_run(os.path.join(folder, one))), None)
        if any(part.startswith(".") for part in inside.parts):
            sifted.hidden += 1
        elif run is not None:
            sifted.runs[run] += 1
        elif not file.lower().endswith(suffixes):
            sifted.others[inside.suffix or inside.name] += 1
        else:
            sifted.taken.append(file)
    return sifted


def _tell(name: str, sifted: Sifted) -> None:
    if sifted.left_out:
        say(f"{name}: left out: {sifted.left_out}")


def _is_run(folder: str) -> bool:
    """Return whether a folder is a run directory. One that has just been made holds an empty lock file alone."""
    lock, manifest = Path(folder, LOCK), Path(folder, MANIFEST)
    if lock.is_file() and lock.stat().st_size == 0:
        return True
    return manifest.is_file() and _is_manifest(manifest.read_bytes())


def _is_manifest(text: bytes) -> bool:
    """Return whether a file is the manifest of a run; other programs have files of this name too."""
    try:
        value: Any = json.loads(text)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.keys() >= {"format_version", "terms", "shards"}


def _refuse_run(name: str) -> NoReturn:
    rows = f"{masked(name).rstrip('/')}/{OUTPUT}"
    raise UsageError(
        f"Input {masked(name)}: it is a run directory.", hint=f"To decode its rows, name their file: {rows}."
    )


def _refuse(name: str, why: str) -> NoReturn:
    raise UsageError(
        f"Input {masked(name)}: {why}.", hint="Name files of JSON Lines, CSV or Parquet, or folders of them."
    )
