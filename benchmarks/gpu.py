"""Everything that is measured on a GPU, in a quarter of an hour: each part in a process of its own.

    python benchmarks/gpu.py --out day                   # all parts, at one size; seven minutes
    python benchmarks/gpu.py --out day --short           # the tests and a quarter of the plans; four minutes
    python benchmarks/gpu.py --out day --part b --size 1b --cells plain,kseq:2:4 --rows 1,8
    python benchmarks/gpu.py --predict                   # the figures foretold without a GPU
    python benchmarks/gpu.py --page day/gpu.json         # one page of a result file, beside it

It needs torch with CUDA, transformers, onnx, numpy and click, and nothing of spectr's installed. The parts are

    a   the tests that need a GPU
    b   plans beside plain decoding, of a target padded in the GPU's memory
    c   how many rows get another text when calls have other shapes
    d   selection against the bandwidth of memory
    e   ONNX Runtime with CUDA and TensorRT-RTX, from wheels in a folder

A part that fails, or takes longer than its limit, leaves the others be. Every figure is in `gpu.json` as soon as it is
known; a part that is run again replaces its own figures alone. What the parts print is beside it, in a file each.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from gpu_day.day import CELLS, REPEATS, ROWS, SIZES, TEXTS, TOKENS, Day, surroundings
from gpu_day.record import Record
from machine import machine

PREDICTED = Path(__file__).parent / "results" / "gpu_predicted.json"
# Seconds; together seven minutes.
LIMITS = {"a": 75.0, "b": 165.0, "c": 80.0, "d": 40.0, "e": 60.0}
SHORT = {"a": 75.0, "b": 100.0}
SHORT_CELLS = ("plain", "single:1:4", "kseq:2:4", "kseq:4:4", "race:1:4", "auto")
SHORT_ROWS = (1, 32)


def run_part(part: str, day: Day, folder: Path, limit: float) -> str:
    """Run a part in a process of its own, and return how it ended; that is in the result file too."""
    record, log = Record(folder / "gpu.json"), folder / f"gpu.{part}.log"
    record.note(part, status="running")
    command = [sys.executable, "-m", "gpu_day", part, str(folder / "gpu.json"), day.to_json()]
    started = time.perf_counter()
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, env=surroundings(), stdout=file, stderr=file, start_new_session=True)
        try:
            code = process.wait(limit)
            status = "done" if code == 0 else f"ended with {code}: {last_line(log)}"
        except subprocess.TimeoutExpired:
            status = f"stopped after {limit:g} seconds"
        finally:
            end(process)
    record.note(part, status=status, seconds=round(time.perf_counter() - started, 1), day=dataclasses.asdict(day))
    return status


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process that runs on, with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def last_line(log: Path) -> str:
    """Return what a part said last."""
    said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    return said[-1] if said else "nothing was said"


def run_once(part: str, result: Path, day: Day) -> None:
    """Run what needs no GPU, and show what it prints."""
    command = [sys.executable, "-m", "gpu_day", part, str(result), day.to_json()]
    sys.exit(subprocess.run(command, env=surroundings(), check=False).returncode)


def separated(text: str) -> tuple[str, ...]:
    """Return the names in a list with commas."""
    return tuple(filter(None, text.split(",")))


@click.command(context_settings={"show_default": True})
@click.option("--part", "parts", multiple=True, type=click.Choice([*LIMITS]), help="Part to run.  [default: all]")
@click.option("--size", default="7b", type=click.Choice([*SIZES]), help="Of the target of parts b and c.")
@click.option("--cells", default=",".join(CELLS), help="Plans of part b: plain, auto, or rule:K:L.")
@click.option("--rows", default=",".join(map(str, ROWS)), help="Rows that part b decodes together.")
@click.option("--device", default="cuda", type=click.Choice(["cuda", "cpu"]))
@click.option("--tokens", default=TOKENS, help="Tokens of a row of part b.")
@click.option("--repeats", default=REPEATS, help="Interleaved repeats of parts b and d.")
@click.option("--texts", default=TEXTS, help="Rows of part c.")
@click.option("--wheels", type=click.Path(exists=True), help="Folder with the wheels of part e.")
@click.option("--limit", type=float, help="Seconds of each part.  [default: seven minutes in all]")
@click.option("--out", type=click.Path(path_type=Path), default=Path("build/gpu"), help="Folder of the results.")
@click.option("--short", is_flag=True, help="The tests and a quarter of the plans, within four minutes.")
@click.option("--predict", is_flag=True, help="Foretell the figures, and measure nothing.")
@click.option("--page", type=click.Path(path_type=Path, exists=True), help="Write one page of a result file.")
def main(**options: Any) -> None:
    """Measure on a GPU."""
    cells, rows = separated(options["cells"]), tuple(map(int, separated(options["rows"])))
    if options["short"]:
        cells, rows = SHORT_CELLS, SHORT_ROWS
    taken = {name: options[name] for name in ("size", "device", "tokens", "repeats", "texts", "wheels")}
    day = Day(cells=cells, rows=rows, **taken)
    if options["page"] is not None:
        run_once("page", options["page"], day)
    if options["predict"]:
        PREDICTED.unlink(missing_ok=True)
        Record(PREDICTED).head(machine())
        run_once("predict", PREDICTED, day)
    folder, limits = options["out"], SHORT if options["short"] else LIMITS
    folder.mkdir(parents=True, exist_ok=True)
    Record(folder / "gpu.json").head(machine())
    for part in options["parts"] or limits:
        limit = options["limit"] or limits.get(part, LIMITS[part])
        click.echo(f"{part}: {run_part(part, day, folder, limit)}")


if __name__ == "__main__":
    main()
