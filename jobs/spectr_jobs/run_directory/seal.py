"""The seal of a shard: a file that exists if the shard is complete, and holds its counts and hashes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory.layout import SEAL
from spectr_runtime.files import replace


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
        """Read the seal of the shard in a folder."""
        value = json.loads((folder / SEAL).read_text(encoding="utf-8"))
        return Seal(value["records"], Tally.from_json(value["tally"]), value["sha256"])

    def write(self, folder: Path) -> None:
        """Write the seal of the shard in a folder."""
        value = {"records": self.records, "tally": self.tally.to_json(), "sha256": dict(self.sha256)}
        replace(folder / SEAL, [json.dumps(value).encode() + b"\n"])
