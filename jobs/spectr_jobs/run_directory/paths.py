"""The paths that a run directory stores, in a form that stays valid from any working directory.

A relative path is stored relative to the run directory, so that it also stays valid if the run directory and the file
are moved together. An absolute path or a URL is stored as it is. For instance, ``in.jsonl`` is stored as
``../in.jsonl`` in the run directory ``run``.
"""

from __future__ import annotations

import os
from pathlib import Path

from spectr_jobs.inputs.stores import is_remote


def to_stored(path: str, folder: Path) -> str:
    """Return the stored form of a path.

    Args:
        path: A path that this process can open.
        folder: The run directory.
    """
    if _is_absolute(path):
        return path
    # A file that is a link keeps its own name, since the name's ending says what the file holds.
    around, name = os.path.split(path)
    return os.path.relpath(os.path.join(os.path.realpath(around), name), os.path.realpath(folder))


def from_stored(path: str, folder: Path) -> str:
    """Return a path that this process can open from its stored form.

    Args:
        path: A path that ``to_stored`` returned.
        folder: The run directory.
    """
    return path if _is_absolute(path) else os.path.relpath(os.path.join(os.path.realpath(folder), path))


def _is_absolute(path: str) -> bool:
    return is_remote(path) or os.path.isabs(path)
