"""How long a command takes that loads no model, and which heavy packages it loads on the way.

    python benchmarks/startup.py build/demo/bundle build/demo/run

Every command is run several times, the commands in turn, each in a process of its own as a user would start it.
Reported are the median of its wall time with the range, and the packages of ``HEAVY`` that its process had loaded when
it ended.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
from machine import machine

HEAVY = ("torch", "transformers", "numpy", "onnx", "onnxruntime")
RESULT = Path(__file__).parent / "results" / "startup.json"
# Runs a console script's function and then tells, on the last line of stderr, what is loaded.
PROBE = """
import atexit, importlib.metadata, json, sys
(entry,) = importlib.metadata.entry_points(group="console_scripts", name=sys.argv[1])
sys.argv = sys.argv[1:]
atexit.register(lambda: print(json.dumps([name for name in {heavy!r} if name in sys.modules]), file=sys.stderr))
entry.load()()
"""


def commands(bundle: Path, run: Path, folder: Path) -> dict[str, list[str]]:
    """The commands by the name that the result shows, files that they write in a folder of their own."""
    job = ["--ranks", "2", "--to"]
    arguments = ["--", str(bundle), "prompts.jsonl", "-o", "run"]
    return {
        "spectr-batch --help": ["spectr-batch", "--help"],
        "spectr-batch verify": ["spectr-batch", "verify", str(run)],
        "spectr-batch report": ["spectr-batch", "report", str(run)],
        "spectr-batch submit slurm": [
            *("spectr-batch", "submit", "slurm", "--time", "1h", *job, str(folder / "job.sbatch"), *arguments)
        ],
        "spectr-batch submit kubernetes": [
            *("spectr-batch", "submit", "kubernetes", "--image", "image", "--claim", "work", *job),
            *(str(folder / "job.yaml"), *arguments),
        ],
        "spectr-export --help": ["spectr-export", "--help"],
        "spectr-export inspect": ["spectr-export", "inspect", str(bundle)],
    }


def run_once(command: Sequence[str]) -> tuple[float, list[str]]:
    """Seconds of a command and the heavy packages that it loaded."""
    started = time.perf_counter()
    probe = [sys.executable, "-c", PROBE.format(heavy=HEAVY), *command]
    done = subprocess.run(probe, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    return seconds, json.loads(done.stderr.splitlines()[-1])


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.argument("run", type=click.Path(path_type=Path, exists=True))
@click.option("--repeats", default=7, help="Times that every command is run; the first of them is not counted.")
@click.option("-o", "--output", default=RESULT, type=click.Path(path_type=Path), help="Where the result goes.")
def main(bundle: Path, run: Path, repeats: int, output: Path) -> None:
    """Measure with BUNDLE and with RUN, a finished run of JSON Lines inputs."""
    seconds: dict[str, list[float]] = {}
    loaded: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for name, command in commands(bundle, run, Path(folder)).items():
                spent, loaded[name] = run_once(command)
                if repeat:
                    seconds.setdefault(name, []).append(spent)
    rows = [
        {
            "command": name,
            "seconds": round(statistics.median(spent), 3),
            "range": [round(min(spent), 3), round(max(spent), 3)],
            "loaded": loaded[name],
        }
        for name, spent in seconds.items()
    ]
    for row in rows:
        click.echo(f"{row['command']:<32}{row['seconds']:>7} s   {row['range']}   {' '.join(row['loaded'])}")
    output.write_text(json.dumps({**machine(), "repeats": repeats - 1, "commands": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
