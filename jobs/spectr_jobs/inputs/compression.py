"""Compressed files as streams of bytes. A file that was cut short gives an error, never less content."""

from __future__ import annotations

import io
import shutil
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from spectr_jobs.extras import load

CHUNK = 1 << 15  # bytes read at a time
_GZIP = 31  # zlib's window bits for a gzip header


class Damaged(Exception):
    """The compressed bytes are damaged or end too early."""


def decompress(raw: BinaryIO, name: str) -> BinaryIO:
    """Return the content of a file, decompressed as its name says. Reading raises ``Damaged`` if the file is damaged.

    Args:
        raw: The file.
        name: Name of the file, which ends in ``.gz`` or ``.zst`` if the file is compressed.
    """
    if name.endswith(".gz"):
        return cast(BinaryIO, _Buffered(_Stream(raw, lambda: zlib.decompressobj(_GZIP), zlib.error)))
    if name.endswith(".zst"):
        zstandard: Any = load("zstandard", "zstd", f"Reading {name}")
        frames = zstandard.ZstdDecompressor()
        return cast(BinaryIO, _Buffered(_Stream(raw, frames.decompressobj, zstandard.ZstdError)))
    return raw


def is_compressed(name: str) -> bool:
    """Return whether a file is compressed, judged by its name."""
    return name.endswith((".gz", ".zst"))


def skip(file: BinaryIO, offset: int) -> None:
    """Move from the start of a file to an offset of its content. Compressed content has to be read up to there."""
    if not isinstance(file, _Buffered):
        file.seek(offset)
        return
    while offset > 0 and (piece := file.read(min(offset, CHUNK))):
        offset -= len(piece)


def compress(plain: BinaryIO, packed: BinaryIO) -> None:
    """Write content as one zstd frame. Empty content becomes an empty file, so that merged files are sound too."""
    if first := plain.read(CHUNK):
        zstandard: Any = load("zstandard", "zstd", "--compress zst")
        with zstandard.ZstdCompressor().stream_writer(packed, closefd=False) as writer:
            writer.write(first)
            shutil.copyfileobj(plain, writer, CHUNK)


class _Buffered(io.BufferedReader):
    """The content of a compressed file, which can only be read forward."""


class _Stream(io.RawIOBase):
    """Decompresses a file frame by frame; a file may consist of several frames one after another.

    Args:
        raw: The compressed file.
        frame: Makes a decompressor for one frame, with the interface of ``zlib.decompressobj``.
        error: The exception that the decompressor raises on damaged bytes.
    """

    def __init__(self, raw: BinaryIO, frame: Callable[[], Any], error: type[Exception]) -> None:
        self._raw = raw
        self._new_frame = frame
        self._error = error
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer with content, and return the number of bytes; 0 at the end."""
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
        """Return the next compressed bytes, with a decompressor ready for them; no bytes at the end of the file."""
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
        """Close the compressed file too."""
        self._raw.close()
        super().close()
