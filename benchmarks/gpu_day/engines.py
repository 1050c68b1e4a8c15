"""Part e: ONNX Runtime with CUDA, and TensorRT-RTX, from wheels in a folder.

The demo pair is built, compiled and decoded by the commands that a user has. A step that fails is noted with what it
said last, and the others go on.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpu_day.day import DEMO, ROOT, Day, surroundings
from gpu_day.record import Record

COMMANDS = {"spectr-export": "spectr_export.cli", "spectr-batch": "spectr_jobs.cli.main"}
PLANS = {
    "plain": ("--plan", "plain"),
    "kseq:2:4": ("--rule", "kseq", "--drafts", "2", "--length", "4"),
    "race:1:4": ("--rule", "race", "--drafts", "1", "--length", "4"),
}
BACKENDS = {"cuda": ("onnxruntime", "tensorrt-rtx"), "cpu": ("onnxruntime",)}
TOLD = ("rows", "completion_tokens", "tokens_per_second", "block_efficiency")  # of the summary of a run
LIMIT = 120  # seconds of a step


def measure(day: Day, record: Record) -> None:
    """Install the wheels, build, compile and decode.

    Raises:
        RuntimeError: There are no wheels in the folder.
    """
    if day.wheels is None:
        record.note("e", left_out="no folder of wheels was named")
        return
    wheels = sorted(map(str, Path(day.wheels).glob("*.whl")))
    if not wheels:
        raise RuntimeError(f"There are no wheels in {day.wheels}.")
    with tempfile.TemporaryDirectory() as folder:
        steps = _Steps(Path(folder), record)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        steps.run("install", [*pip, "--target", str(steps.site), *wheels])
        _call_it_installed(steps.site)
        _decode_all(day, steps)


def _decode_all(day: Day, steps: _Steps) -> None:
    bundle, dtype = str(steps.folder / "bundle"), "float16" if day.device == "cuda" else "float32"
    models = [str(DEMO / "target"), "--draft", str(DEMO / "draft")]
    if not steps.command("build", "spectr-export", "build", *models, "--dtype", dtype, "-o", bundle):
        return
    if day.device == "cuda":
        steps.command("compile", "spectr-export", "compile", bundle, "--backend", "tensorrt-rtx")
    prompts = str(ROOT / "examples" / "prompts.jsonl")
    for backend in BACKENDS[day.device]:
        for plan, options in PLANS.items():
            run = steps.folder / f"{backend}-{plan.replace(':', '-')}"
            where = ["--backend", backend, "--device", day.device, "--batch-size", "8", "--limit", "32"]
            arguments = ["run", bundle, prompts, "-o", str(run), *where, *options]
            if steps.command(f"{backend}, {plan}", "spectr-batch", *arguments):
                summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
                steps.add(f"{backend}, {plan}", **{name: summary[name] for name in TOLD})


class _Steps:
    """Runs steps in a folder, and notes how they went."""

    def __init__(self, folder: Path, record: Record) -> None:
        self.folder, self.site = folder, folder / "site"
        self.site.mkdir()
        self._record, self._done = record, dict[str, dict[str, Any]]()

    def command(self, step: str, command: str, *arguments: str) -> bool:
        """Run one of the commands, which is not installed; return whether it succeeded."""
        return self.run(step, [sys.executable, "-c", f"from {COMMANDS[command]} import main; main()", *arguments])

    def run(self, step: str, command: Sequence[str]) -> bool:
        """Run a step and return whether it succeeded."""
        started = time.perf_counter()
        variables = surroundings(self.site) | {"XDG_CACHE_HOME": str(self.folder / "cache")}
        try:
            done = subprocess.run(
                command, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
                timeout=LIMIT,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            self.add(step, error=f"took more than {LIMIT} seconds")
            return False
        print(f"== {step}\n{done.stdout}", flush=True)
        self.add(step, seconds=round(time.perf_counter() - started, 2))
        if done.returncode:
            self.add(step, code=done.returncode, error=done.stdout.strip()[-600:])
        return not done.returncode

    def add(self, step: str, **figures: Any) -> None:
        """Note more of a step."""
        self._done.setdefault(step, {}).update(figures)
        self._record.cell("e", step, self._done[step])


def _call_it_installed(site: Path) -> None:
    """Give the sources a version, which a bundle names; they lie in the path and are not installed."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    folder = site / f"spectr-{project['version']}.dist-info"
    folder.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: spectr\nVersion: {project['version']}\n"
    (folder / "METADATA").write_text(metadata, encoding="utf-8")
