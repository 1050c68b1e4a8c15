"""Compressed files as streams of bytes. A file that was cut short is an error, never a shorter file."""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from spectr_jobs.extras import load

CHUNK = 1 << 15
_GZIP = 31  # zlib's window bits for a gzip header


class Damaged(Exception):
    """The compressed bytes are damaged or end too early."""


def decompress(raw: BinaryIO, name: str) -> BinaryIO:
    """The content of a file, decompressed as its name says.

    Reading raises ``Damaged`` where the file is.

    Args:
        raw: The file's bytes.
        name: Its name; ``.gz`` and ``.zst`` are known, anything else is not compressed.
    """
    if name.endswith(".gz"):
        return cast(BinaryIO, _Buffered(_Stream(raw, lambda: zlib.decompressobj(_GZIP), zlib.error)))
    if name.endswith(".zst"):
        zstandard: Any = load("zstandard", "zstd", f"Reading {name}")
        frames = zstandard.ZstdDecompressor()
        return cast(BinaryIO, _Buffered(_Stream(raw, frames.decompressobj, zstandard.ZstdError)))
    return raw


def is_compressed(name: str) -> bool:
    """Whether a file's content has to be decompressed, told by its name."""
    return name.endswith((".gz", ".zst"))


def skip(file: BinaryIO, offset: int) -> None:
    """Go from the start to an offset; compressed content is read up to there."""
    if not isinstance(file, _Buffered):
        file.seek(offset)
        return
    while offset > 0 and (piece := file.read(min(offset, CHUNK))):
        offset -= len(piece)


def compress(plain: BinaryIO, packed: BinaryIO) -> None:
    """Write content as one zstd frame; no content is no frame."""
    if first := plain.read(CHUNK):
        zstandard: Any = load("zstandard", "zstd", "--compress zst")
        with zstandard.ZstdCompressor().stream_writer(packed, closefd=False) as writer:
            writer.write(first)
            shutil.copyfileobj(plain, writer, CHUNK)


class _Buffered(io.BufferedReader):
    """Content that was compressed: it can only be read forward."""


class _Stream(io.RawIOBase):
    """Decompresses frame after frame.

    Args:
        raw: The compressed bytes.
        frame: Makes a decompressor for one frame, with the interface of ``zlib.decompressobj``.
        error: What it raises on damaged bytes.
    """

    def __init__(self, raw: BinaryIO, frame: Callable[[], Any], error: type[Exception]) -> None:
        self._raw = raw
        self._new_frame = frame
        self._error = error
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer with content; 0 at the end."""
        while not self._ready and (compressed := self._next_input()):
            try:
                self._ready = memoryview(self._frame.decompress(compressed))
            except self._error as error:
                raise Damaged(str(error)) from error
        size = min(len(buffer), len(self._ready))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def _next_input(self) -> bytes:
        """The next compressed bytes, with a decompressor ready for them; nothing at the end of the file."""
        if self._frame is None or self._frame.eof:
            left = self._frame.unused_data if self._frame else b""
            compressed: bytes = left or self._raw.read(CHUNK)
            self._frame = self._new_frame() if compressed else self._frame
            return compressed
        compressed = self._raw.read(CHUNK)
        if not compressed:
            raise Damaged("the file ends in the middle of its compressed data")
        return compressed

    def close(self) -> None:
        """Close the file below too."""
        self._raw.close()
        super().close()
