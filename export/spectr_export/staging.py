"""A folder that appears whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from spectr_runtime.bundle.layout import MANIFEST
from spectr_runtime.errors import UsageError
from spectr_runtime.files import sync


def refuse_output(output: Path, *, overwrite: bool) -> None:
    """Refuse a place that a bundle must not be written to.

    Raises:
        UsageError: Something is there and may not be replaced, or the folder around it does not exist.
    """
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists.", hint="Name another place, or replace it with --overwrite.")
    if output.exists() and not (output / MANIFEST).is_file():
        raise UsageError(
            f"{output} is not a bundle, so --overwrite does not replace it.", hint="Name another place, or remove it."
        )


@contextlib.contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Yield a new folder beside ``output`` that takes its place when the block ends well, and vanishes otherwise.

    Everything is on disk before the rename, so that a crash leaves either what was there before or the whole folder. An
    existing ``output`` is moved aside first: between the two renames there is no ``output``, but nothing is lost.
    """
    output = output.absolute()
    folder, replaced = (output.with_name(f".{output.name}.{os.getpid()}.{what}") for what in ("new", "old"))
    folder.mkdir(parents=True)
    try:
        yield folder
        _sync_all(folder)
        if output.exists():
            output.rename(replaced)
        folder.rename(output)
        sync(output.parent)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        if replaced.exists() and not output.exists():
            replaced.rename(output)
        raise
    shutil.rmtree(replaced, ignore_errors=True)


def _sync_all(folder: Path) -> None:
    for path in (*folder.rglob("*"), folder):
        sync(path)
