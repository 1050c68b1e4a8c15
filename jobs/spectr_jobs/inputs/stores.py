"""Object stores: the fsspec filesystem of a URL, and the many errors of stores as one kind of error."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from spectr_jobs.extras import load
from spectr_runtime.errors import SpectrError, UsageError


def is_remote(path: str) -> bool:
    """Return whether a path is a URL."""
    return "://" in path


def bare(path: str) -> str:
    """Return a path without the query that a URL over HTTP may have behind it, for instance a signature."""
    return path.partition("?")[0] if _HTTP.match(path) else path


_HTTP = re.compile("([a-z]+::)*https?://")


def filesystem(url: str, purpose: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of a URL, and the path in it.

    Args:
        url: The URL.
        purpose: What needs the filesystem; messages begin with it.

    Raises:
        UsageError: fsspec does not know the URL, or a package is not installed.
    """
    core: Any = load("fsspec.core", "remote", purpose)
    try:
        found, path = core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise UsageError(f"{purpose} is not possible: {error}.") from error
    return found, path


@contextlib.contextmanager
def reaching(url: str) -> Iterator[None]:
    """While the block runs, turn every error of a store's library into a ``SpectrError``.

    Raises:
        SpectrError: The store cannot be reached, or refuses.
    """
    try:
        yield
    except SpectrError:
        raise
    except Exception as error:
        raise SpectrError(
            f"{url} cannot be reached: {type(error).__name__}: {error}.",
            hint="Check address, credentials and endpoint (AWS_ENDPOINT_URL), then run the same command again.",
        ) from error


def version(url: str) -> str:
    """Return a text that changes with an object's content: its size with its hash or generation, as the store has it.

    Raises:
        SpectrError: The store cannot be reached, or has no such object.
    """
    store, path = filesystem(url, f"Reading {url}")
    with reaching(url):
        store.invalidate_cache()  # a cached listing may be old, and has other fields than the object itself
        info = store.info(path)
        revision = next((info[name] for name in _VERSIONS if info.get(name)), None)
        return f"{info['size']}:{revision or store.ukey(path)}"


_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "blob_id")
