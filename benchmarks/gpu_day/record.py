"""The result file, written at once whenever something is known."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Record:
    """A result file of JSON. What is in it stays, unless something of the same name is put in its place.

    Attributes:
        path: The file; one process writes to it at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """Return the contents; a head and no parts at first."""
        if not self.path.exists():
            return {"parts": {}}
        kept: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
        return kept

    def head(self, facts: Mapping[str, Any]) -> None:
        """Put facts of the machine in front of the parts."""
        kept = self.read()
        parts = kept.pop("parts")
        self._write({**kept, **facts, "parts": parts})

    def note(self, part: str, **figures: Any) -> None:
        """Put figures of a part as a whole into the file."""
        kept = self.read()
        kept["parts"].setdefault(part, {}).update(figures)
        self._write(kept)

    def cell(self, part: str, name: str, figures: Mapping[str, Any]) -> None:
        """Put the figures of a cell of a part into the file."""
        kept = self.read()
        kept["parts"].setdefault(part, {}).setdefault("cells", {})[name] = dict(figures)
        self._write(kept)

    def _write(self, kept: Mapping[str, Any]) -> None:
        """Replace the file; a process that is ended here leaves the old one or the new one."""
        beside = self.path.with_suffix(".new")
        beside.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
        os.replace(beside, self.path)


def first_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message."""
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
