"""The manifest of a run: everything that fixes its rows. How they are decoded (plan, batch, device) may change."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectr_jobs.inputs.reader import Position
from spectr_jobs.inputs.survey import InputFile
from spectr_jobs.run_directory import paths
from spectr_runtime.errors import UsageError
from spectr_runtime.rows.request import SamplingParams

FORMAT_VERSION = 1
DEFAULTS = ("max_tokens", "temperature", "top_p", "top_k")


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """What a resumed run must agree on with the command that started it.

    Attributes:
        bundle_sha256: Hash of the bundle.
        seed: The run seed.
        sampling: Parameters of records that do not say.
        limit: Records taken from the inputs; all if there is none.
        shard_size: Records per shard.
        compress: ``zst`` if what is sealed and merged is compressed.
    """

    bundle_sha256: str
    seed: int
    sampling: SamplingParams
    limit: int | None
    shard_size: int
    compress: str | None = None

    def by_option(self) -> dict[str, object]:
        """The terms by the names that a user knows them by."""
        return {
            "bundle": self.bundle_sha256,
            "--seed": self.seed,
            **{f"--{name.replace('_', '-')}": getattr(self.sampling, name) for name in DEFAULTS},
            "--limit": self.limit,
            "--shard-size": self.shard_size,
            "--compress": self.compress,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class RunManifest:
    """The contents of ``manifest.json``.

    Attributes:
        created: When the run was started, in seconds since 1970.
        bundle: Folder of the bundle.
        terms: What a resumed run must agree on.
        files: The inputs, which it must agree on too.
        records: Records in all.
        bad: Records among them that cannot be decoded.
        shards: Where every shard starts.
        versions: Versions of the tools, when the run was started.
    """

    created: int
    bundle: str
    terms: Terms
    files: tuple[InputFile, ...]
    records: int
    bad: int
    shards: tuple[Position, ...]
    versions: Mapping[str, str]

    def to_json(self, folder: Path) -> dict[str, Any]:
        """The manifest as JSON values, for a run directory; paths are those of ``paths.to_stored``."""
        terms = dataclasses.asdict(self.terms)
        terms["sampling"] = {name: terms["sampling"][name] for name in DEFAULTS}
        return {
            "format_version": FORMAT_VERSION,
            "created": self.created,
            "bundle": paths.to_stored(self.bundle, folder),
            "terms": terms,
            "files": [dataclasses.asdict(file.at(paths.to_stored(file.path, folder))) for file in self.files],
            "records": self.records,
            "bad": self.bad,
            "versions": dict(self.versions),
            "shards": [list(dataclasses.astuple(shard)) for shard in self.shards],
        }

    @staticmethod
    def read(path: Path) -> RunManifest:
        """Read a manifest.

        Raises:
            UsageError: It is damaged, or was written by another version.
        """
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
            version = fields.pop("format_version")
            if version != FORMAT_VERSION:
                raise UsageError(
                    f"{path}: format_version is {version!r}; this spectr reads {FORMAT_VERSION}.",
                    hint="Take a new run directory.",
                )
            return _from_fields(fields, path.parent)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{path} is damaged: {error!r}.", hint="Take a new run directory.") from error

    def size_of(self, shard: int) -> int:
        """Records of a shard."""
        return min(self.terms.shard_size, self.records - shard * self.terms.shard_size)

    def check(self, terms: Terms, files: tuple[InputFile, ...]) -> None:
        """Refuse to go on with other terms or other inputs.

        Args:
            terms: Those of the command.
            files: Its inputs; what they hold is not looked at, only their fingerprints.

        Raises:
            UsageError: Something differs; the message shows what.
        """
        differences = list(_differences(self.terms.by_option(), terms.by_option()))
        differences += _differences(_fingerprints(self.files), _fingerprints(files))
        if differences:
            raise UsageError(
                f"The run directory was started with other values: {'; '.join(differences)}.",
                hint="Use the values that it was started with, or take a new run directory.",
            )


def _from_fields(fields: dict[str, Any], folder: Path) -> RunManifest:
    terms, files = fields["terms"], (InputFile(**file) for file in fields["files"])
    return RunManifest(
        **fields
        | {
            "terms": Terms(**terms | {"sampling": SamplingParams(**terms["sampling"])}),
            "bundle": paths.from_stored(fields["bundle"], folder),
            "files": tuple(file.at(paths.from_stored(file.path, folder)) for file in files),
            "shards": tuple(Position(*shard) for shard in fields["shards"]),
        }
    )


def _fingerprints(files: tuple[InputFile, ...]) -> dict[str, object]:
    return {
        **{f"input {file.label}": file.fingerprint for file in files},
        **{f"--column of {file.label}": dict(file.columns) for file in files},
        "inputs": [file.label for file in files],
    }


def _differences(before: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    for name in dict.fromkeys((*before, *now)):
        if name in before and name in now and before[name] != now[name]:
            yield f"{name} was {before[name]}, now it is {now[name]}"
