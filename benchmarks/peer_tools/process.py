"""A worker's process, seen from the benchmark."""

from __future__ import annotations

import atexit
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("worker.py")


class Worker:
    """A tool in a process of its own, which is stopped while it is not asked."""

    def __init__(self, setup: Mapping[str, Any], log: Path) -> None:
        self._log = log
        with log.open("w", encoding="utf-8") as file:
            self._process = subprocess.Popen(
                [sys.executable, str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True
            )
        atexit.register(self._process.kill)  # a stopped process would outlive a benchmark that fails
        self.opened = self.ask(setup)

    def ask(self, question: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer; a process that ended answers with an error."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.send_signal(signal.SIGCONT)
        try:
            self._process.stdin.write(json.dumps(question) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            said = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return {"error": f"the process ended with {self._process.wait()}: {said[-1] if said else 'nothing said'}"}
        self._process.send_signal(signal.SIGSTOP)
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process."""
        self._process.send_signal(signal.SIGCONT)
        self._process.communicate()
