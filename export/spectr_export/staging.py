"""Writes a folder that appears whole or not at all."""

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
    """Refuse a path to which a bundle must not be written.

    Raises:
        UsageError: The path exists and ``overwrite`` is false, or the path exists and is not a bundle.
    """
    if output.exists() and not overwrite:
        raise UsageError(f"{output} exists.", hint="Name another path, or replace it with --overwrite.")
    if output.exists() and not (output / MANIFEST).is_file():
        raise UsageError(
            f"{output} is not a bundle, so --overwrite does not replace it.", hint="Name another path, or remove it."
        )


@contextlib.contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Yield a new folder beside ``output``, which becomes ``output`` if the block succeeds and is deleted if it fails.

    All files are on the disk before the folder is renamed, so that a crash leaves either the old ``output`` or the
    complete new one. An existing ``output`` is first renamed: between the two renames there is no ``output``, but both
    folders exist under other names.
    """
    output = output.absolute()
    folder, replaced = (output.with_name(f".{output.name}.{os.getpid()}.{state}") for state in ("new", "old"))
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
