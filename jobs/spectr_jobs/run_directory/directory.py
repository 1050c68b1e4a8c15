"""The run directory: its manifest, the places of its files, and the merge when all shards are sealed.

    RUN/manifest.json                            what fixes every row: inputs, bundle, seed, sampling, shards
    RUN/shards/00012/{output,errors}.jsonl       journals while the shard is decoded; in input order once it is sealed,
                                                 then with --compress as .jsonl.zst, like the merged files
    RUN/shards/00012/sealed.json                 the shard's counts, written when it is sealed
    RUN/sessions/*.jsonl                         events, one file per process
    RUN/output.jsonl, errors.jsonl               everything, in input order
    RUN/events.jsonl, summary.json

The shards are the truth; what is merged from them can be made again at any time.
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from spectr_jobs.inputs.reader import Reader
from spectr_jobs.inputs.sources import Source
from spectr_jobs.records.record import BadRecord, Record
from spectr_jobs.records.rows import Row, key
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.lock import held
from spectr_jobs.run_directory.manifest import Manifest
from spectr_runtime.errors import UsageError

PARTS = ("output.jsonl", "errors.jsonl")


class ShardReader:
    """Reads the records of shards again; in ascending order it reads a compressed input once."""

    def __init__(self, manifest: Manifest) -> None:
        """Prepare; inputs are opened as they are needed."""
        self._manifest = manifest
        inputs = [file.source for file in manifest.files]
        self._reader = Reader(inputs, [file.shape for file in manifest.files], manifest.terms.sampling)

    def read(self, shard: int) -> Iterator[Record | BadRecord]:
        """The records of a shard."""
        for item in self._reader.read(self._manifest.shards[shard], self._manifest.size_of(shard)):
            yield item.record


@dataclasses.dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run directory with its manifest."""

    path: Path
    manifest: Manifest

    @staticmethod
    def open(path: Path) -> RunDirectory:
        """Open a run directory.

        Raises:
            UsageError: It is none.
        """
        if not (path / "manifest.json").is_file():
            raise UsageError(
                f"{path} is not a run directory: no manifest.json in it.",
                hint="Name a folder that `spectr-batch run` made.",
            )
        return RunDirectory(path, Manifest.read(path / "manifest.json"))

    @staticmethod
    def reserve(path: Path) -> None:
        """Make the folder of a run directory, unless it is there.

        Raises:
            UsageError: It holds something else, or a file is in its place.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise UsageError(
                f"{path} cannot be a run directory: a file is in its place.", hint="Take another."
            ) from error
        found = {one.name for one in path.iterdir()}  # at one look, since other ranks begin at the same time
        if found and "lock" not in found:
            raise UsageError(f"{path} is not empty and is not a run directory.", hint="Take a new run directory.")
        (path / "lock").touch()

    @staticmethod
    def start(path: Path, make: Callable[[], Manifest]) -> tuple[RunDirectory, bool]:
        """Write the manifest, or read the one that is there; of several processes one writes it and the others wait.

        Args:
            path: The folder, reserved.
            make: Makes the manifest.

        Returns:
            The run directory, and whether it is new.
        """
        file = path / "manifest.json"
        with held(path / "lock"):
            new = not file.exists()
            if new:
                text = json.dumps(make().to_json(path), indent=2) + "\n"
                journal.replace(file, [text.encode()])
        return RunDirectory.open(path), new

    def reading(self, inputs: Sequence[Source]) -> RunDirectory:
        """The same run directory, its inputs read from where they are now.

        Args:
            inputs: Files with the content of the manifest's, in their order.
        """
        files = tuple(file.at(one.path) for file, one in zip(self.manifest.files, inputs, strict=True))
        return RunDirectory(self.path, dataclasses.replace(self.manifest, files=files))

    @property
    def sessions(self) -> Path:
        """Folder of the events, one file per process."""
        return self.path / "sessions"

    @property
    def summary(self) -> Path:
        """The summary; it is there when everything is merged."""
        return self.path / "summary.json"

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of what is sealed in a shard, and merged."""
        return tuple(name + journal.PACKED for name in PARTS) if self.manifest.terms.compress else PARTS

    @property
    def files(self) -> dict[str, Path]:
        """What is merged, by name."""
        return {name.partition(".")[0]: self.path / name for name in self.parts} | {"summary": self.summary}

    @property
    def shards(self) -> range:
        """Numbers of all shards."""
        return range(len(self.manifest.shards))

    def shard(self, number: int) -> Path:
        """Folder of a shard."""
        return self.path / "shards" / f"{number:05d}"

    def is_sealed(self, number: int) -> bool:
        """Whether a shard is complete."""
        return (self.shard(number) / "sealed.json").exists()

    def done(self, number: int) -> set[str]:
        """Ids of a shard's records that have a row."""
        parts = (journal.rows(self.shard(number) / name) for name in PARTS)
        return {key(row) for part in parts for _, _, row in part}

    def merge(self) -> None:
        """Write ``output.jsonl`` and ``errors.jsonl`` from the sealed shards."""
        for name in self.parts:
            parts = [self.shard(number) / name for number in self.shards]
            with journal.replacing(self.path / name) as whole:
                for part in parts:
                    with part.open("rb") as piece:
                        shutil.copyfileobj(piece, whole, 1 << 20)

    def merge_events(self) -> None:
        """Write ``events.jsonl`` from the sessions, by time."""
        streams = [journal.rows(path) for path in sorted(self.sessions.glob("*.jsonl"))]
        with journal.replacing(self.path / "events.jsonl") as whole:
            whole.writelines(line for _, line, _ in heapq.merge(*streams, key=_time_of))


def _time_of(event: tuple[int, bytes, Row]) -> float:
    return float(event[2]["time"])
