"""Where a command writes what it found: into the run directory, into a file that the user names, or to stdout."""

from __future__ import annotations

from pathlib import Path

from spectr_jobs.console import give
from spectr_runtime.errors import SpectrError
from spectr_runtime.files import replace

STDOUT = Path("-")


def write(text: str, path: Path) -> None:
    """Write a text to a file, or to stdout for ``-``. Characters that UTF-8 does not have are escaped.

    Args:
        text: The text.
        path: The file. One that is there is replaced as a whole; devices and pipes are written to.

    Raises:
        SpectrError: The file cannot be written.
    """
    data = text.encode("utf-8", "backslashreplace")
    if path == STDOUT:
        give(data)
        return
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
        else:
            replace(path, [data])
    except OSError as error:
        raise SpectrError(
            f"{path} cannot be written: {error.strerror}.", hint="Name another file with --output, or - for stdout."
        ) from error
