"""The seal of a shard: a file that exists if the shard is complete, and holds its counts and hashes."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory.journal import REDO
from spectr_jobs.run_directory.layout import SEAL
from spectr_runtime.errors import SpectrError
from spectr_runtime.files import replace

_PIECE = 1 << 20  # bytes read at a time


@dataclasses.dataclass(frozen=True, slots=True)
class Seal:
    """The contents of ``sealed.json``.

    Attributes:
        records: Number of records of the shard.
        tally: Counts over their rows.
        sha256: Hashes of the shard's files, by the names of the files.
    """

    records: int
    tally: Tally
    sha256: Mapping[str, str]

    @staticmethod
    def read(folder: Path) -> Seal:
        """Read the seal of the shard in a folder.

        Raises:
            SpectrError: The seal is damaged.
        """
        try:
            value = json.loads((folder / SEAL).read_text(encoding="utf-8"))
            return Seal(value["records"], Tally.from_json(value["tally"]), dict(value["sha256"]))
        except (ValueError, KeyError, TypeError) as error:
            raise SpectrError(f"{folder / SEAL} is damaged: {error!r}.", hint=REDO.format(folder)) from error

    def write(self, folder: Path) -> None:
        """Write the seal of the shard in a folder."""
        value = {"records": self.records, "tally": self.tally.to_json(), "sha256": dict(self.sha256)}
        replace(folder / SEAL, [json.dumps(value).encode() + b"\n"])

    def pieces(self, folder: Path, name: str) -> Iterator[bytes]:
        """Yield the content of one of the shard's files.

        Args:
            folder: Folder of the shard.
            name: Name of the file.

        Raises:
            SpectrError: The file is gone, or is not the one that was sealed, which shows after the last piece.
        """
        path, hashed = folder / name, hashlib.sha256()
        try:
            with path.open("rb") as file:
                while piece := file.read(_PIECE):
                    hashed.update(piece)
                    yield piece
        except FileNotFoundError as error:
            raise SpectrError(f"{path} is gone.", hint=REDO.format(folder)) from error
        if hashed.hexdigest() != self.sha256.get(name):
            raise SpectrError(f"{path} was altered.", hint=REDO.format(folder))
