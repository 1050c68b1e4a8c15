"""The run directory: its manifest, its paths, the counts of its rows, and the merge of its shards. See ``layout``."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from spectr_jobs.errors import InputChanged, InputError
from spectr_jobs.inputs.reader import Fingerprint, Reader
from spectr_jobs.inputs.sources import Source
from spectr_jobs.records.record import BadRecord, Record
from spectr_jobs.records.rows import key
from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.layout import (
    EVENTS,
    LOCK,
    MANIFEST,
    PACKED,
    PARTS,
    SEAL,
    SESSIONS,
    SHARDS,
    SUMMARY,
)
from spectr_jobs.run_directory.lock import held
from spectr_jobs.run_directory.manifest import RunManifest
from spectr_jobs.run_directory.seal import Seal
from spectr_jobs.run_directory.sessions import merged_events
from spectr_runtime.errors import SpectrError, UsageError
from spectr_runtime.files import replace, replacing

PUT_BACK = "Put it back as it was, then run the same command again."


class ShardReader:
    """Reads the records of shards from the inputs.

    All lines of a shard are read and compared with the manifest before the first record is given out, so that no record
    of an input that changed is ever decoded. Asked for shards in ascending order, it reads an input that cannot be
    entered in the middle, for instance a compressed file, only once.

    Args:
        manifest: The manifest, which says where every shard starts.
    """

    def __init__(self, manifest: RunManifest) -> None:
        self._manifest = manifest
        self._reader = self._open()

    def read(self, shard: int) -> Iterator[Record | BadRecord]:
        """Return the records of a shard, each read when it is asked for.

        Raises:
            InputChanged: The inputs hold other lines there than when the run began.
            SpectrError: A store cannot be reached.
        """
        stretch, fingerprint = self._manifest.shards[shard], Fingerprint()
        try:
            lines = [*self._reader.lines(stretch.start, stretch.records)]
        except (InputChanged, InputError) as error:  # gone, or not even lines any more
            self._reader = self._open()
            raise self._changed(shard, error.message) from error
        except SpectrError:
            self._reader = self._open()
            raise
        for _, line in lines:
            fingerprint.add(line)
        if len(lines) != stretch.records or str(fingerprint) != stretch.fingerprint:
            self._reader = self._open()
            raise self._changed(shard, "it holds other lines than when the run began.")
        reader = self._reader
        return (reader.parse(position, line) for position, line in lines)

    def _open(self) -> Reader:
        files = self._manifest.files
        return Reader([file.source for file in files], [file.shape for file in files], self._manifest.terms.sampling)

    def _changed(self, shard: int, how: str) -> InputChanged:
        path = self._manifest.files[self._manifest.shards[shard].start.source].path
        return InputChanged(f"Input {path} has changed, so shard {shard} cannot be decoded: {how}", hint=PUT_BACK)


@dataclasses.dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run directory with its manifest.

    Attributes:
        path: The folder.
        manifest: The contents of its manifest.
    """

    path: Path
    manifest: RunManifest

    @staticmethod
    def is_begun(path: Path) -> bool:
        """Return whether a folder is a run directory that has its manifest."""
        return (path / MANIFEST).is_file()

    @staticmethod
    def open(path: Path) -> RunDirectory:
        """Open a run directory.

        Raises:
            UsageError: The folder is not a run directory.
        """
        if not RunDirectory.is_begun(path):
            raise UsageError(
                f"{path} is not a run directory: no {MANIFEST} in it.",
                hint="Name a folder that `spectr-batch run` made.",
            )
        return RunDirectory(path, RunManifest.read(path / MANIFEST))

    @staticmethod
    def reserve(path: Path) -> None:
        """Make the folder of a run directory, unless there is one.

        The lock file, which is made here, marks a folder as a run directory before it has its manifest.

        Raises:
            UsageError: The folder holds something else, or the path is a file.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(
                f"{path} cannot be a run directory: it is a file, or a folder above it is.", hint="Name a folder."
            ) from error
        found = {entry.name for entry in path.iterdir()}  # listed once, since other ranks may begin at the same time
        if found and LOCK not in found:
            raise UsageError(f"{path} is not empty and is not a run directory.", hint="Take a new run directory.")
        (path / LOCK).touch()

    @staticmethod
    def start(path: Path, make: Callable[[], RunManifest]) -> tuple[RunDirectory, bool]:
        """Write the manifest, or read the one that is there. Of several processes, one writes it and the others wait.

        Args:
            path: The folder, reserved.
            make: Makes the manifest; called only if there is none.

        Returns:
            The run directory, and whether this process has written its manifest.
        """
        with held(path / LOCK):
            new = not RunDirectory.is_begun(path)
            if new:
                text = json.dumps(make().to_json(path), indent=2) + "\n"
                replace(path / MANIFEST, [text.encode()])
        return RunDirectory.open(path), new

    def reading(self, inputs: Sequence[Source]) -> RunDirectory:
        """Return the same run directory with other paths of its inputs.

        Args:
            inputs: The same inputs as in the manifest, in the same order, where they are now.
        """
        files = tuple(file.at(source.path) for file, source in zip(self.manifest.files, inputs, strict=True))
        return RunDirectory(self.path, dataclasses.replace(self.manifest, files=files))

    @property
    def sessions(self) -> Path:
        """The folder of the sessions' events."""
        return self.path / SESSIONS

    @property
    def summary(self) -> Path:
        """The file of the summary, which exists once everything is merged."""
        return self.path / SUMMARY

    @property
    def lock(self) -> Path:
        """The lock file, whose lock a process holds while it writes files that all processes of the run share."""
        return self.path / LOCK

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of a sealed shard's files, which are also the names of the merged files."""
        return tuple(name + PACKED for name in PARTS) if self.manifest.terms.compress else PARTS

    @property
    def files(self) -> dict[str, Path]:
        """The files to show to the user after the merge, by name: output, errors and summary."""
        return {name.partition(".")[0]: self.path / name for name in self.parts} | {"summary": self.summary}

    @property
    def shards(self) -> range:
        """The numbers of all shards."""
        return range(len(self.manifest.shards))

    def shard(self, number: int) -> Path:
        """Return the folder of a shard."""
        return self.path / SHARDS / f"{number:05d}"

    def is_sealed(self, number: int) -> bool:
        """Return whether a shard is sealed, and therefore complete."""
        return (self.shard(number) / SEAL).exists()

    def done(self, number: int) -> set[str]:
        """Return the ids of a shard's records that have a row."""
        return {key(row) for name in PARTS for row in journal.rows(self.shard(number) / name)}

    def tally(self, shards: Iterable[int]) -> Tally:
        """Count the rows of some shards. In a shard that is not sealed, the rows so far are counted."""
        total = Tally()
        for number in shards:
            folder = self.shard(number)
            if self.is_sealed(number):
                total.merge(Seal.read(folder).tally)
                continue
            for name in PARTS:
                for row in journal.rows(folder / name):
                    total.add(row)
        return total

    def is_merged(self) -> bool:
        """Return whether everything was merged, and the merged files still have the sizes of the shards' files."""
        return self.summary.exists() and all(
            _size(self.path / name) == sum(_size(folder / name) for folder in map(self.shard, self.shards))
            for name in self.parts
        )

    def merge(self) -> None:
        """Write the merged output and errors: the files of all shards, one after another. All shards must be sealed.

        Raises:
            SpectrError: A file of a shard is gone or was altered; the merged file stays as it was.
        """
        for name in self.parts:
            with replacing(self.path / name) as whole:
                for folder in map(self.shard, self.shards):
                    whole.writelines(Seal.read(folder).pieces(folder, name))

    def merge_events(self) -> None:
        """Write the events of all sessions into one file, sorted by time."""
        replace(self.path / EVENTS, merged_events(self.sessions))


def _size(path: Path) -> float:
    """Return the size of a file in bytes, as NaN if it is gone, which is the size of no file."""
    return path.stat().st_size if path.exists() else math.nan
