"""Messages to the user: single lines and small tables on stderr. Stdout is left to data.

Nobody may be there to read them. A command that is told to (``keep_streams``) writes its messages or drops them, and
goes on.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TextIO

from tqdm import tqdm

from spectr_jobs.urls import masked

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

TableLine = tuple[str, str]
"""A line of a table: the name of a fact, and the fact."""


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a message to stderr or another stream. A progress bar on the same terminal moves below the message.

    No message shows what gives access in a URL, whoever made the message.
    """
    tqdm.write(f"spectr-batch: {masked(text)}", file=stream or sys.stderr)


def table(lines: Sequence[TableLine]) -> str:
    """Return lines as a table of two columns, indented by two spaces, the names padded to one width."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in lines)


class _Forgiving(io.FileIO):
    """A descriptor that drops what cannot be written: a pipe's reader or a terminal has gone, or a log's disk is full.

    Everything that writes to stderr stands above it: messages, the progress bar, warnings, click and logging.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        """Write data or drop it; return how much of it is dealt with."""
        with contextlib.suppress(OSError):
            if (written := super().write(data)) is not None:  # None: a pipe that does not wait is full
                return written
        return memoryview(data).nbytes


def keep_streams() -> None:
    """Let nothing that becomes of stderr end the process, and no file take the descriptor of a stream that is closed.

    A descriptor that was closed when the process started would be given to the next file that is opened, for instance
    to rows, and libraries that write messages to 2 would write them there. Characters that a stream cannot encode, such
    as the bytes of a path that is not UTF-8, are escaped.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    forgiving = io.BufferedWriter(_Forgiving(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(forgiving, encoding, errors="backslashreplace", line_buffering=True)
    sys.stdin = sys.stdin or os.fdopen(0)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def give(data: bytes) -> None:
    """Write data to stdout, for a command whose exit code says more than whether somebody takes them."""
    if sys.stdout is None:
        return
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        sys.stdout = None  # or the interpreter flushes it at exit, and fails again


class _Notes(logging.Handler):
    """A log handler that shows every log message to the user."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextlib.contextmanager
def runtime_log_shown() -> Iterator[None]:
    """While the block runs, show the user what the runtime logs, for instance that a batch was halved."""
    log, notes = logging.getLogger("spectr_runtime"), _Notes()
    log.addHandler(notes)
    try:
        yield
    finally:
        log.removeHandler(notes)
