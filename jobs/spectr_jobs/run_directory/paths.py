"""Paths that a run directory remembers, kept so that the files are found from any folder, and after both were moved.

A relative path is kept as seen from the run directory; an absolute path and a URL are kept as they are.
"""

from __future__ import annotations

import os
from pathlib import Path

from spectr_jobs.inputs.stores import is_remote


def to_stored(path: str, folder: Path) -> str:
    """Return a path that this process can open in the form in which a run directory keeps it.

    Args:
        path: The path.
        folder: The run directory.
    """
    if _is_absolute(path):
        return path
    around, name = os.path.split(path)  # the name stays, though it may be a link: it tells what the file holds
    return os.path.relpath(os.path.join(os.path.realpath(around), name), os.path.realpath(folder))


def from_stored(path: str, folder: Path) -> str:
    """Return, for a path that ``to_stored`` returned, one that this process can open."""
    return path if _is_absolute(path) else os.path.relpath(os.path.join(os.path.realpath(folder), path))


def _is_absolute(path: str) -> bool:
    return is_remote(path) or os.path.isabs(path)
