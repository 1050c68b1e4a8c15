"""Commands that load no model load no tensor library either, so that they answer at once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import jobs_stub
import pytest
from jobs_stub import write_bundle, write_lines

HEAVY = ("torch", "transformers", "numpy", "onnx", "onnxruntime")
# Ends like the command, and writes what is loaded then on the last line of stderr.
PROBE = """
import atexit, importlib, sys
module, _, function = sys.argv[1].partition(":")
sys.argv = sys.argv[2:]
atexit.register(lambda: print("loaded:", *({names!r} & sys.modules.keys()), file=sys.stderr))
getattr(importlib.import_module(module), function)()
"""
BATCH, EXPORT = "spectr_jobs.cli.main:main", "spectr_export.cli:main"
RUN = ["--ranks", "2", "--", "bundle", "in.jsonl", "-o", "new"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle without models, and a finished run of the stub decoder over JSON Lines."""
    folder = tmp_path_factory.mktemp("startup")
    bundle = write_bundle(folder / "bundle")
    manifest = json.loads((bundle / "spectr.json").read_text(encoding="utf-8"))
    manifest["parity"] = {"draft": {"prefill": 0.0}, "target": {"prefill": 0.0}}
    (bundle / "spectr.json").write_text(json.dumps(manifest), encoding="utf-8")
    prompts = write_lines(folder / "in.jsonl", [{"id": n, "prompt": f"Say {n}"} for n in range(5)])
    command = [sys.executable, jobs_stub.__file__, "0", "run", bundle, prompts, "-o", folder / "run"]
    subprocess.run(command, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("entry", "arguments"),
    [
        (BATCH, ["--help"]),
        (BATCH, ["run", "--help"]),
        (BATCH, ["verify", "run"]),
        (BATCH, ["report", "run"]),
        (BATCH, ["submit", "slurm", "--time", "1h", *RUN]),
        (BATCH, ["submit", "kubernetes", "--image", "image", "--claim", "work", *RUN]),
        (EXPORT, ["--help"]),
        (EXPORT, ["inspect", "bundle"]),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else value.partition(".")[0],
)
def test_a_command_answers_without_a_tensor_library(folder: Path, entry: str, arguments: list[str]) -> None:
    probe = PROBE.format(names=set(HEAVY))
    command = [sys.executable, "-c", probe, entry, "command", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines()[-1] == "loaded:"


@pytest.mark.parametrize("given", [["--call-shape", "8x"], ["--call-shape", "8x5", "--drafts", "4"]])
def test_a_shape_of_calls_is_refused_without_one(folder: Path, given: list[str]) -> None:
    probe = PROBE.format(names=set(HEAVY))
    arguments = ["run", "bundle", "in.jsonl", "-o", "new", *given]
    command = [sys.executable, "-c", probe, BATCH, "command", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--call-shape" in done.stderr
    assert done.stderr.splitlines()[-1] == "loaded:"


def test_the_probe_sees_what_a_command_loads(folder: Path) -> None:
    probe = PROBE.format(names=set(HEAVY))
    command = [sys.executable, "-c", probe, BATCH, "command", "replay", "run", "--id", "none"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "torch" in done.stderr.splitlines()[-1]
