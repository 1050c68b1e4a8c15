"""The run directory: its manifest, the places of its files, and the merge when all shards are sealed.

RUN/manifest.json                            what fixes every row: inputs, bundle, seed, sampling, shards
RUN/shards/00012/{output,errors}.jsonl       journals while the shard is decoded; in input order once it is sealed
RUN/shards/00012/sealed.json                 the shard's counts, written when it is sealed
RUN/sessions/*.jsonl                         events, one file per process
RUN/output.jsonl, errors.jsonl               everything, in input order
RUN/events.jsonl, summary.json
"""

from __future__ import annotations

import dataclasses
import heapq
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectr_jobs import journal, rows, survey
from spectr_jobs.records import BadRecord, Record
from spectr_jobs.sources import Source
from spectr_jobs.survey import InputFile, Position
from spectr_runtime.errors import UsageError
from spectr_runtime.request import SamplingParams

FORMAT_VERSION = 1
DEFAULTS = ("max_tokens", "temperature", "top_p", "top_k")
PARTS = ("output.jsonl", "errors.jsonl")


@dataclasses.dataclass(frozen=True, slots=True)
class Manifest:
    """What fixes every row of a run.

    Attributes:
        created: When the run was started, in seconds since 1970.
        bundle: Folder of the bundle.
        bundle_sha256: Its hash.
        seed: The run seed.
        sampling: Parameters of records that do not say.
        files: The inputs.
        limit: Records taken from them; all if there is none.
        records: Records in all.
        bad: Records among them that cannot be decoded.
        shard_size: Records per shard.
        shards: Where every shard starts.
        versions: Versions of the tools, when the run was started.
    """

    created: int
    bundle: str
    bundle_sha256: str
    seed: int
    sampling: SamplingParams
    files: tuple[InputFile, ...]
    limit: int | None
    records: int
    bad: int
    shard_size: int
    shards: tuple[Position, ...]
    versions: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The manifest as JSON values."""
        return {
            "format_version": FORMAT_VERSION,
            **{field.name: getattr(self, field.name) for field in dataclasses.fields(self)},
            "sampling": {name: getattr(self.sampling, name) for name in DEFAULTS},
            "files": [dataclasses.asdict(file) for file in self.files],
            "shards": [list(dataclasses.astuple(shard)) for shard in self.shards],
            "versions": dict(self.versions),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Manifest:
        """Read a manifest.

        Raises:
            UsageError: It was written by another version.
        """
        fields = dict(value)
        if (version := fields.pop("format_version", None)) != FORMAT_VERSION:
            raise UsageError(
                f"The run directory's format_version is {version!r}; this spectr reads {FORMAT_VERSION}.",
                hint="Take a new run directory.",
            )
        return Manifest(
            **fields
            | {
                "sampling": SamplingParams(**fields["sampling"]),
                "files": tuple(InputFile(**file) for file in fields["files"]),
                "shards": tuple(Position(*shard) for shard in fields["shards"]),
            }
        )

    def size_of(self, shard: int) -> int:
        """Records of a shard."""
        return min(self.shard_size, self.records - shard * self.shard_size)


@dataclasses.dataclass(frozen=True, slots=True)
class RunDirectory:
    """A run directory with its manifest."""

    path: Path
    manifest: Manifest

    @staticmethod
    def create(path: Path, manifest: Manifest) -> RunDirectory:
        """Write the manifest.

        Raises:
            UsageError: The folder holds something else.
        """
        if path.is_dir() and any(path.iterdir()):
            raise UsageError(f"{path} is not empty.", hint="Take a new run directory.")
        path.mkdir(parents=True, exist_ok=True)
        text = json.dumps(manifest.to_json(), ensure_ascii=False, indent=2) + "\n"
        journal.replace(path / "manifest.json", iter([text.encode()]))
        return RunDirectory(path, manifest)

    @property
    def sessions(self) -> Path:
        """Folder of the events, one file per process."""
        return self.path / "sessions"

    def shard(self, number: int) -> Path:
        """Folder of a shard."""
        return self.path / "shards" / f"{number:05d}"

    def records(self, shard: int) -> Iterator[Record | BadRecord]:
        """The records of a shard, read again from the inputs as they are asked for."""
        inputs = [Source(Path(file.path), file.label) for file in self.manifest.files]
        shapes = [file.shape for file in self.manifest.files]
        items = survey.read(inputs, shapes, self.manifest.shards[shard], self.manifest.sampling)
        for _, item in zip(range(self.manifest.size_of(shard)), items, strict=False):
            yield item.record

    def is_sealed(self, shard: int) -> bool:
        """Whether a shard is complete."""
        return (self.shard(shard) / "sealed.json").exists()

    def merge(self) -> None:
        """Write ``output.jsonl``, ``errors.jsonl`` and ``events.jsonl`` from the sealed shards and the sessions."""
        for name in PARTS:
            _concatenate([self.shard(shard) / name for shard in range(len(self.manifest.shards))], self.path / name)
        streams = [journal.rows(path) for path in sorted(self.sessions.glob("*.jsonl"))]
        events = heapq.merge(*streams, key=_time_of)
        journal.replace(self.path / "events.jsonl", (line for _, line, _ in events))


def _time_of(event: tuple[int, bytes, rows.Row]) -> float:
    return float(event[2]["time"])


def _concatenate(parts: list[Path], whole: Path) -> None:
    partial = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
    with partial.open("wb") as file:
        for part in parts:
            with part.open("rb") as piece:
                shutil.copyfileobj(piece, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(whole)
    journal.sync_folder(whole.parent)
