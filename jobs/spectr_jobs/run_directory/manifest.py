"""The manifest of a run: everything that fixes its rows, written once when the run starts.

Plan, batch size, backend and device are not in it: they do not change the law of the rows, and may differ from session
to session. The shape of all calls is, where the user has asked for one: rows that do not depend on their neighbours to
the last bit do not depend on a change of it either.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spectr_jobs.inputs.reader import Position, Stretch
from spectr_jobs.inputs.survey import InputFile
from spectr_jobs.run_directory import paths
from spectr_runtime.errors import UsageError
from spectr_runtime.rows.request import SamplingParams

FORMAT_VERSION = 2
# The sampling parameters that a command or a bundle may set for all records.
DEFAULTS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty")


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """The values that every command which continues a run must repeat.

    Attributes:
        bundle_sha256: Hash of the bundle.
        seed: The run seed.
        sampling: Sampling parameters of records that do not set their own.
        date: The day that chat templates are told; None in a command that takes the day of the run, or today.
        limit: Number of records to decode, from the first on; None for all.
        shard_size: Records per shard.
        compress: ``zst`` if sealed shards and merged files are compressed.
        call_shape: The one shape of all calls, ``ROWSxTOKENS``; None if calls differ. A run may have been begun by a
            release that did not know it.
    """

    bundle_sha256: str
    seed: int
    sampling: SamplingParams
    date: datetime.date | None
    limit: int | None
    shard_size: int
    compress: str | None = None
    call_shape: str | None = None

    @property
    def defaults(self) -> dict[str, float]:
        """The sampling parameters of records that do not set their own, by name."""
        return {name: getattr(self.sampling, name) for name in DEFAULTS}

    def by_option(self) -> dict[str, object]:
        """Return the terms by the names of the options and arguments that set them."""
        return {
            "bundle": self.bundle_sha256,
            "--seed": self.seed,
            **{f"--{name.replace('_', '-')}": value for name, value in self.defaults.items()},
            "--date": self.date,
            "--limit": self.limit,
            "--shard-size": self.shard_size,
            "--compress": self.compress,
            "--call-shape": self.call_shape,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class RunManifest:
    """The contents of ``manifest.json``.

    Attributes:
        created: Start of the run, in seconds since 1970.
        bundle: Path of the bundle.
        terms: The values that every command which continues the run must repeat.
        files: The inputs, which must also stay the same.
        records: Number of records.
        bad: Number of these records that cannot be decoded.
        shards: The records of every shard.
        versions: Versions of Python and of packages at the start of the run.
    """

    created: int
    bundle: str
    terms: Terms
    files: tuple[InputFile, ...]
    records: int
    bad: int
    shards: tuple[Stretch, ...]
    versions: Mapping[str, str]

    def to_json(self, folder: Path) -> dict[str, Any]:
        """Return the manifest as JSON values.

        Args:
            folder: The run directory, from which relative paths are stored; see ``paths``.
        """
        terms = dataclasses.asdict(self.terms) | {"sampling": self.terms.defaults, "date": str(self.date)}
        return {
            "format_version": FORMAT_VERSION,
            "created": self.created,
            "bundle": paths.to_stored(self.bundle, folder),
            "terms": terms,
            "files": [dataclasses.asdict(file.at(paths.to_stored(file.path, folder))) for file in self.files],
            "records": self.records,
            "bad": self.bad,
            "versions": dict(self.versions),
            "shards": [[*dataclasses.astuple(shard.start), shard.records, shard.fingerprint] for shard in self.shards],
        }

    @staticmethod
    def read(path: Path) -> RunManifest:
        """Read a manifest.

        Raises:
            UsageError: The file is damaged, or was written by another version.
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

    @property
    def date(self) -> datetime.date:
        """The day that chat templates are told."""
        assert self.terms.date is not None
        return self.terms.date

    def size_of(self, shard: int) -> int:
        """Return the number of records of a shard."""
        return self.shards[shard].records

    def check(self, terms: Terms, files: tuple[InputFile, ...]) -> None:
        """Check that a command continues the run with the same terms and inputs.

        Args:
            terms: The terms of the command.
            files: The inputs of the command, of which labels, columns and fingerprints are compared.

        Raises:
            UsageError: Something differs; the message shows every difference.
        """
        asked = terms if terms.date else dataclasses.replace(terms, date=self.date)
        differences = list(_differences(self.terms.by_option(), asked.by_option()))
        differences += _differences(_fingerprints(self.files), _fingerprints(files))
        if differences:
            raise UsageError(
                f"The run directory was started with other values: {'; '.join(differences)}.",
                hint="Use the values that it was started with, or take a new run directory.",
            )


def _from_fields(fields: dict[str, Any], folder: Path) -> RunManifest:
    terms, files = fields["terms"], (InputFile(**file) for file in fields["files"])
    sampling, date = SamplingParams(**terms["sampling"]), datetime.date.fromisoformat(terms["date"])
    return RunManifest(
        **fields
        | {
            "terms": Terms(**terms | {"sampling": sampling, "date": date}),
            "bundle": paths.from_stored(fields["bundle"], folder),
            "files": tuple(file.at(paths.from_stored(file.path, folder)) for file in files),
            "shards": tuple(Stretch(Position(*shard[:3]), *shard[3:]) for shard in fields["shards"]),
        }
    )


def _fingerprints(files: tuple[InputFile, ...]) -> dict[str, object]:
    return {
        **{f"input {file.label}": file.fingerprint for file in files},
        **{f"--column of {file.label}": dict(file.columns) for file in files},
        **{f"folders above {file.label}": dict(file.partition) for file in files},
        "inputs": [file.label for file in files],
    }


def _differences(before: Mapping[str, object], now: Mapping[str, object]) -> Iterator[str]:
    """Yield a text for every name with two different values; names that only one side has are not compared."""
    for name in dict.fromkeys((*before, *now)):
        if name in before and name in now and before[name] != now[name]:
            yield f"{name} was {before[name]}, now it is {now[name]}"
