"""The paths that a run directory stores, in a form that stays valid from any working directory.

A relative path is stored relative to the run directory, so that it also stays valid if the run directory and the file
are moved together. An absolute path is stored as it is. For instance, ``in.jsonl`` is stored as ``../in.jsonl`` in the
run directory ``run``.

A URL is stored without its password and signature, since others may read the manifest. The whole URLs of the last
command are in a file of their own, which its owner alone can read: commands such as ``verify`` read the inputs too.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spectr_jobs.inputs.stores import is_remote
from spectr_jobs.run_directory.layout import URLS
from spectr_jobs.urls import identity
from spectr_runtime.files import replacing

_OF_OWNER = 0o600


def to_stored(path: str, folder: Path) -> str:
    """Return the stored form of a path.

    Args:
        path: A path that this process can open.
        folder: The run directory.
    """
    if _is_absolute(path):
        return identity(path) if is_remote(path) else path
    # A file that is a link keeps its own name, since the name's ending says what the file holds.
    around, name = os.path.split(path)
    return os.path.relpath(os.path.join(os.path.realpath(around), name), os.path.realpath(folder))


def from_stored(path: str, folder: Path) -> str:
    """Return a path that this process can open from its stored form.

    Args:
        path: A path that ``to_stored`` returned.
        folder: The run directory.
    """
    if is_remote(path):
        return str(_kept(folder).get(path, path))
    return path if os.path.isabs(path) else os.path.relpath(os.path.join(os.path.realpath(folder), path))


def keep_urls(paths: Iterable[str], folder: Path) -> None:
    """Keep the URLs among some paths whose stored form lacks a password or a signature, instead of those kept before.

    Args:
        paths: The paths of all inputs.
        folder: The run directory.
    """
    urls = {identity(path): path for path in paths if is_remote(path) and identity(path) != path}
    if not urls:
        (folder / URLS).unlink(missing_ok=True)
    elif urls != _kept(folder):
        with replacing(folder / URLS) as file:
            os.fchmod(file.fileno(), _OF_OWNER)
            file.write(json.dumps(urls, indent=2).encode() + b"\n")


def _kept(folder: Path) -> Mapping[str, Any]:
    """Return the URLs that were kept; none if they belong to another user, or somebody deleted or damaged them."""
    try:
        found: Any = json.loads((folder / URLS).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _is_absolute(path: str) -> bool:
    return is_remote(path) or os.path.isabs(path)
