"""Object stores: the fsspec filesystem of a URL, and the many errors of stores as one kind of error."""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from typing import Any

from spectr_jobs.extras import load
from spectr_jobs.urls import identity, masked
from spectr_runtime.errors import SpectrError, UsageError

PATIENCE = {"sock_connect": 20, "sock_read": 30}  # seconds that a server over HTTP may be silent
_HTTP = re.compile("https?://")
_PARAMETERS = re.compile(r"\?[\w.~\-%]+=")  # how a query begins, unlike a pattern such as ``a?.jsonl``
_KEYS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "s3a": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "gcs": "GOOGLE_APPLICATION_CREDENTIALS",
}
_VERSIONS = ("ETag", "etag", "generation", "md5Hash", "blob_id", "Content-MD5", "Digest", "Last-Modified")


def is_remote(path: str) -> bool:
    """Return whether a path is a URL."""
    return "://" in path


def bare(path: str) -> str:
    """Return a path without the query that a URL may have behind it; of URLs that are chained, the one of the file."""
    if not is_remote(path):
        return path
    url = next(part for part in path.split("::") if is_remote(part))
    query = re.search(r"\?", url) if _HTTP.match(url) else _PARAMETERS.search(url)
    return url[: query.start()] if query else url


def has_query(url: str) -> bool:
    """Return whether a URL has a query, and hence names one file and no folder."""
    return _PARAMETERS.search(url) is not None


def filesystem(url: str, purpose: str) -> tuple[Any, str]:
    """Return the fsspec filesystem of a URL, and the path in it. Some stores are connected to for that.

    Args:
        url: The URL.
        purpose: What needs the filesystem, for instance ``Reading``; messages begin with it.

    Raises:
        UsageError: fsspec does not know the URL, or a package is not installed.
        SpectrError: The store cannot be reached, or refuses.
    """
    shown = f"{purpose} {masked(url)}"
    core: Any = load("fsspec.core", "remote", shown)
    scheme = url.partition("://")[0].rpartition("::")[2]
    if scheme in _KEYS and identity(url) != url:
        message = f"{shown} is not possible: a URL of {scheme}:// has no place for keys."
        raise UsageError(message, hint=f"Leave them out, and set {_KEYS[scheme]}.")
    with reaching(url):
        try:
            found, path = core.url_to_fs(url, **_patience(url))
        except (ImportError, ValueError) as error:
            raise UsageError(f"{shown} is not possible: {_text(error, url)}.") from error
        return found, path


def _patience(url: str) -> dict[str, Any]:
    """Return options of fsspec for a URL over HTTP, for which it would otherwise wait minutes."""
    schemes = {found[0].removesuffix("://") for found in _HTTP.finditer(url)}
    if not schemes:
        return {}
    conf, http = load("fsspec.config", "remote", "HTTP").conf, load("aiohttp", "remote", "HTTP")
    timeout = http.ClientTimeout(total=None, **PATIENCE)
    return {
        scheme: {"client_kwargs": {"timeout": timeout} | conf.get(scheme, {}).get("client_kwargs", {})}
        for scheme in schemes
    }


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
        cause = refusal(error) or error
        why = ": ".join(filter(None, (type(cause).__name__, _text(cause, url))))
        raise SpectrError(f"{masked(url)} cannot be reached: {why}.", hint=_remedy(url)) from error


def _text(error: Exception, url: str) -> str:
    """Return the message of a library in one line, without the secrets of a URL."""
    return masked(" ".join(str(error).split()), url).rstrip(".")


def _remedy(url: str) -> str:
    if has_query(url) and not has_query(identity(url)):
        return "Check the address. If its signature has expired, run the same command with a new one."
    endpoint = (
        ", credentials and endpoint (AWS_ENDPOINT_URL)" if "s3" in url.partition("://")[0] else " and credentials"
    )
    return f"Check address{endpoint}, then run the same command again."


def refusal(error: Exception) -> Exception | None:
    """Return why a server over HTTP does not give a file, where fsspec calls every reason a missing file."""
    cause = error.__cause__
    if not isinstance(error, FileNotFoundError) or not isinstance(cause, Exception):
        return None
    of_http = type(cause).__module__.startswith("aiohttp") or isinstance(cause, TimeoutError)
    return cause if of_http and getattr(cause, "status", None) not in (404, 410) else None


def is_file(store: Any, path: str) -> bool:
    """Return whether a store has a file.

    Raises:
        Exception: A server does not say, or does not let us know.
    """
    try:
        return bool(store.info(path)["type"] == "file")
    except FileNotFoundError as error:
        if why := refusal(error):
            raise why from error
        return False


def version(url: str) -> str:
    """Return a text that changes with an object's content: its size with its hash or generation, as the store has it.

    A server over HTTP may have neither. Then it is the hash of the content, which is read for it.

    Raises:
        SpectrError: The store cannot be reached, or has no such object.
    """
    store, path = filesystem(url, "Reading")
    with reaching(url):
        store.invalidate_cache()  # a cached listing may be old, and has other fields than the object itself
        info = store.info(path)
        revision = next((info[name] for name in _VERSIONS if info.get(name)), None)
        if revision is None:
            revision = _hash(store, path) if _HTTP.search(url) else store.ukey(path)
        return f"{info['size']}:{revision}"


def _hash(store: Any, path: str) -> str:
    found = hashlib.sha256()
    with store.open(path, "rb") as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()
