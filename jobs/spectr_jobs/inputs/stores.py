"""Object stores: the filesystems of fsspec behind URLs, and their failures as one kind of error."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from spectr_jobs.extras import load
from spectr_runtime.errors import SpectrError, UsageError


def is_remote(path: str) -> bool:
    """Tell whether a path is a URL."""
    return "://" in path


def filesystem(url: str, purpose: str) -> tuple[Any, str]:
    """The fsspec filesystem of a URL, and the path in it.

    Args:
        url: The URL.
        purpose: What it is needed for, for messages.

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
    """Turn what the libraries of object stores raise, each its own kinds, into an error of ours.

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
    """A text that differs when the object's content does: its hash or generation where the store tells one.

    Raises:
        SpectrError: The store cannot be reached, or has no such object.
    """
    store, path = filesystem(url, f"Reading {url}")
    with reaching(url):
        store.invalidate_cache()  # a listing may be old, and tells other fields than the object itself
        info = store.info(path)
        revision = next((info[name] for name in _VERSIONS if info.get(name)), None)
        return f"{info['size']}:{revision or store.ukey(path)}"


_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "blob_id")
