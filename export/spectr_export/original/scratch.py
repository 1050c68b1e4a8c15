"""Folders that stand for a checkpoint while a build reads it: some files of their own, and links to the others."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
from collections.abc import Container, Iterator
from pathlib import Path

from spectr_runtime.errors import SpectrError


@dataclasses.dataclass(frozen=True, slots=True)
class Scratch:
    """A folder for such folders, which is deleted at the end of a build.

    Attributes:
        folder: The folder.
        names: For each folder that stands for a checkpoint, the checkpoint's name in messages.
    """

    folder: Path
    names: dict[Path, str]

    def stand_in(self, source: Path | str) -> Path:
        """Make an empty folder that stands for a checkpoint; errors name the checkpoint in its place.

        Args:
            source: The checkpoint, or a folder of this scratch that stands for one.
        """
        made = self.folder / f"{len(self.names):02}"
        made.mkdir()
        self.names[made] = self.restore(str(source))
        return made

    def restore(self, text: str) -> str:
        """Return a text with the names of checkpoints in place of the folders that stand for them."""
        for made, name in self.names.items():
            text = text.replace(str(made), name)
        return text


@contextlib.contextmanager
def open_scratch() -> Iterator[Scratch]:
    """Yield a scratch in the system's folder for temporary files.

    Errors that leave the block name checkpoints and not the folders that stand for them, which are gone by then.
    """
    with tempfile.TemporaryDirectory(prefix="spectr-") as name:
        scratch = Scratch(Path(name), {})
        try:
            yield scratch
        except SpectrError as error:
            error.message, error.hint = scratch.restore(error.message), scratch.restore(error.hint)
            raise


def link_files(source: Path, folder: Path, *, without: Container[str] = ()) -> None:
    """Link everything that lies in a checkpoint into a folder.

    Args:
        source: The checkpoint.
        folder: The folder to link into.
        without: Names in the checkpoint that are left out.
    """
    for path in source.iterdir():
        if path.name not in without:
            (folder / path.name).symlink_to(path.absolute())
