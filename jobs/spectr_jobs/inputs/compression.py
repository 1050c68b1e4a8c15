"""Compressed files as streams of bytes. A file that was cut short gives an error, never less content.

A file is known by its first bytes, whatever its name.
"""

from __future__ import annotations

import bz2
import io
import lzma
import shutil
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, cast

from spectr_jobs.extras import load

CHUNK = 1 << 15  # bytes read at a time
PACKED = (".gz", ".zst", ".bz2", ".xz")  # endings of the names of compressed files
_GZIP = 31  # zlib's window bits for a gzip header
_LONGEST_WINDOW = 1 << 31  # bytes; what zstd --long=31 writes
_MARKS = {b"\x1f\x8b": ".gz", b"\xfd7zXZ\0": ".xz", b"\x28\xb5\x2f\xfd": ".zst"}
_SKIPPABLE = b"\x2a\x4d\x18"  # of a frame that zstd passes over, but for its first byte
_ARCHIVES = {b"PK\x03\x04": "zip", b"PK\x05\x06": "zip", b"7z\xbc\xaf\x27\x1c": "7z", b"Rar!\x1a\x07": "RAR"}
_TAR = slice(257, 262)  # where a tar archive says what it is


class Damaged(Exception):
    """The compressed bytes are damaged or end too early."""


class Archive(Exception):
    """The file is an archive of files; the argument is its kind."""


def decompress(raw: BinaryIO, name: str) -> io.BufferedReader:
    """Return the content of a file, decompressed as its first bytes say.

    Reading raises ``Damaged`` if the file is damaged.

    Args:
        raw: The file, at its start.
        name: Name of the file, for messages.

    Raises:
        Archive: The file is an archive, or holds one.
    """
    file = _peekable(raw)
    kind = _kind(file)
    content = file if kind is None else _Buffered(_Stream(cast(BinaryIO, file), *_codec(kind, name)))
    try:
        _refuse_archive(content)
    except BaseException:
        content.close()
        raise
    return content


def is_compressed(raw: BinaryIO) -> bool:
    """Return whether a file, at its start, is compressed."""
    return _kind(_peekable(raw)) is not None


def _peekable(raw: BinaryIO) -> io.BufferedReader:
    return raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast(io.RawIOBase, raw))


def _kind(file: io.BufferedReader) -> str | None:
    start = file.peek(8)[:8]
    if start.startswith(b"BZh") and start[4:] == b"1AY&":
        return ".bz2"
    if start[1:4] == _SKIPPABLE:
        return ".zst"
    return next((kind for mark, kind in _MARKS.items() if start.startswith(mark)), None)


def _codec(kind: str, name: str) -> tuple[Callable[[], Any], type[Exception]]:
    """Return what makes a decompressor for one frame, and what the decompressor raises."""
    if kind == ".gz":
        return lambda: zlib.decompressobj(_GZIP), zlib.error
    if kind == ".bz2":
        return bz2.BZ2Decompressor, OSError
    if kind == ".xz":
        return lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ), lzma.LZMAError
    zstandard: Any = load("zstandard", "zstd", f"Reading {name}")
    frames = zstandard.ZstdDecompressor(max_window_size=_LONGEST_WINDOW)
    return frames.decompressobj, zstandard.ZstdError


def _refuse_archive(content: io.BufferedReader) -> None:
    start = content.peek(_TAR.stop)
    for mark, kind in _ARCHIVES.items():
        if start.startswith(mark):
            raise Archive(kind)
    if start[_TAR] == b"ustar":
        raise Archive("tar")


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
            compressed: bytes = self._frame.unused_data if self._frame else b""
            # Behind a frame some programs write zeros, which are no frame.
            while not compressed.lstrip(b"\0") and (compressed := self._raw.read(CHUNK)):
                pass
            compressed = compressed.lstrip(b"\0")
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
