"""What the user reads on the terminal: single lines and small tables on stderr, since stdout carries data only."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TextIO

from tqdm import tqdm

TableLine = tuple[str, str]
"""A line of a table: its name, and what is told under that name."""


def say(text: str, stream: TextIO | None = None) -> None:
    """Write a line for the user. A progress bar that is drawn on the same terminal moves down below the line."""
    tqdm.write(f"spectr-batch: {text}", file=stream or sys.stderr)


def table(lines: Sequence[TableLine]) -> str:
    """Return lines as a table of two columns, indented by two spaces, the names padded to one width."""
    width = max(len(name) for name, _ in lines)
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in lines)


class _Notes(logging.Handler):
    """Hands what a library logs to the user."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


@contextlib.contextmanager
def runtime_log_shown() -> Iterator[None]:
    """While the block runs, tell the user what the runtime logs, for instance that a batch was halved."""
    log, notes = logging.getLogger("spectr_runtime"), _Notes()
    log.addHandler(notes)
    try:
        yield
    finally:
        log.removeHandler(notes)
