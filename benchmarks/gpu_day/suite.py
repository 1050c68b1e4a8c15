"""Part a: the tests that need a GPU, as a process of pytest's own."""

from __future__ import annotations

import subprocess
import sys

from gpu_day.day import ROOT, Day, surroundings
from gpu_day.record import Record

MARK = "pytest.mark.cuda"


def measure(day: Day, record: Record) -> None:
    """Run the tests that are marked so."""
    files = marked()
    command = [sys.executable, "-m", "pytest", "-v", "-m", "cuda", "-p", "no:cacheprovider", *files]
    record.note("a", files=files, closing=None, failures=[])
    if not files:
        return
    lines = []
    with subprocess.Popen(command, cwd=ROOT, env=surroundings(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line.strip())
    failures = [line for line in lines if line.startswith(("FAILED ", "ERROR "))]
    record.note("a", closing=lines[-1].strip("= ") if lines else "", failures=failures, code=process.returncode)


def marked() -> list[str]:
    """Return the files that have the mark, and the folders whose fixtures have; to read all others takes a minute."""
    having = [path for path in (ROOT / "tests").rglob("*.py") if MARK in path.read_text(encoding="utf-8")]
    places = {path.parent if path.name == "conftest.py" else path for path in having}
    return sorted(str(place.relative_to(ROOT)) for place in places)
