"""Messages to the user: single lines and small tables on stderr. Stdout is left to data."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from tqdm import tqdm

from spectr_jobs.urls import masked

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
