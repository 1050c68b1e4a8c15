"""The place of a file that a run directory remembers, told so that it is found from any folder, and after both moved.

What was named by a relative path is kept as seen from the run directory; an absolute path and a URL stay as they are.
"""

from __future__ import annotations

import os
from pathlib import Path


def is_remote(path: str) -> bool:
    """Whether a path is a URL."""
    return "://" in path


def kept(path: str, folder: Path) -> str:
    """A path that this process can open, as a run directory keeps it.

    Args:
        path: The path.
        folder: The run directory.
    """
    if _is_absolute(path):
        return path
    around, name = os.path.split(path)  # the name stays, though it may be a link: it tells what the file holds
    return os.path.relpath(os.path.join(os.path.realpath(around), name), os.path.realpath(folder))


def found(path: str, folder: Path) -> str:
    """What ``kept`` made, as a path that this process can open."""
    return path if _is_absolute(path) else os.path.relpath(os.path.join(os.path.realpath(folder), path))


def _is_absolute(path: str) -> bool:
    return is_remote(path) or os.path.isabs(path)
