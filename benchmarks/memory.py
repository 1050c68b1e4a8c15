"""Memory of ``spectr-batch run`` over inputs of a hundred to a million records, with a decoder that has no models.

    python benchmarks/memory.py build/pair

What is measured is all that is not a model: the survey, records, shards, journals, the merge, the summary. The figure
needs matplotlib: `pip install '.[bench]'`.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
from machine import machine

from spectr_jobs.cli import main as cli
from spectr_jobs.work import models
from spectr_runtime import Completion, Plan, Reading, Request, SpeculationStats, Timing, Usage
from spectr_runtime.overlap import Overlap
from spectr_runtime.speculation.timing import PlainTime

RESULT = Path(__file__).parent / "results" / "memory.json"
SIZES = (100, 1_000, 10_000, 100_000, 1_000_000)
PHASES = ("survey", "decoding", "merge")
SAMPLE_SECONDS = 0.01
SHOWN_SAMPLES = 300
PROMPT = "Write a function that adds the numbers of a list. " * 4
PAGE = os.sysconf("SC_PAGE_SIZE")


class NoModel:
    """Completes every request at once, and counts."""

    def __init__(self, rows: Any) -> None:
        self.timing = Timing()
        self.reading = Reading()
        self.plain = PlainTime()
        self.rounds: dict[Plan, int] = {}
        self._rows = rows

    def piece(self, token: int) -> tuple[str, bytes]:
        """The text of a token, and its bytes."""
        return chr(token), bytes([token])

    def run(self, requests: Iterable[Request], take: Callable[[Completion], None], stopped: Callable[[], bool]) -> None:
        """The same beside a thread for the host."""
        Overlap(requests, take, 8, stopped).run(self.generate)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """A row for each request, in order."""
        for request in requests:
            self._rows.value += 1
            yield Completion(
                id=request.id,
                text="def add(numbers):\n    return sum(numbers)\n" * 4,
                token_ids=tuple(range(40)),
                finish_reason="stop",
                usage=Usage(prompt_tokens=40, completion_tokens=40),
                speculation=SpeculationStats(rounds=10, accepted_at_depth=(10, 9, 8, 3)),
            )


def command(arguments: list[str], rows: Any) -> None:
    """``spectr-batch`` with that decoder, silently."""
    models.open_decoder = lambda bundle, setup, *, seed, date: NoModel(rows)  # type: ignore[assignment]
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    raise SystemExit(cli.call(arguments))


def write_input(path: Path, records: int) -> None:
    """A file of records."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(records):
            file.write(json.dumps({"id": f"record-{number}", "prompt": f"{number}: {PROMPT}", "max_tokens": 64}) + "\n")


def measure(bundle: Path, records: int) -> dict[str, Any]:
    """Run over so many records, and look at the process's resident memory all the while."""
    context = multiprocessing.get_context("spawn")
    rows = context.Value("q", 0, lock=False)
    samples: list[tuple[float, str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        write_input(Path(folder) / "input.jsonl", records)
        arguments = ["run", str(bundle), f"{folder}/input.jsonl", "-o", f"{folder}/run", "--batch-size", "8"]
        process = context.Process(target=command, args=(arguments, rows))
        process.start()
        started = time.monotonic()
        while process.is_alive():
            phase = PHASES[(rows.value > 0) + (rows.value == records)]
            samples.append((time.monotonic() - started, phase, resident(process.pid)))
            process.join(SAMPLE_SECONDS)
        if process.exitcode != 0:
            raise click.ClickException(f"the run ended with {process.exitcode}")
        input_mib = (Path(folder) / "input.jsonl").stat().st_size / 2**20
    return describe(records, input_mib, samples)


def resident(pid: int | None) -> float:
    """Resident memory of a process, in MiB; 0 when it has just ended."""
    fields = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * PAGE / 2**20


def describe(records: int, input_mib: float, samples: list[tuple[float, str, float]]) -> dict[str, Any]:
    """What the result file says of a run."""
    decoding = [mib for _, phase, mib in samples if phase == "decoding"]
    half = len(decoding) // 2
    return {
        "records": records,
        "input_mib": round(input_mib, 1),
        "seconds": round(samples[-1][0], 1),
        "microseconds_per_record": {
            name: round(
                1e6 * sum(later[0] - at for (at, phase, _), later in pairwise(samples) if phase == name) / records
            )
            for name in PHASES
        },
        "peak_mib": {
            name: round(max((m for _, phase, m in samples if phase == name), default=0), 1) for name in PHASES
        },
        "growth_mib_over_second_half_of_decoding": round(decoding[-1] - decoding[half], 2) if decoding else 0.0,
        "samples": [
            [round(at, 2), phase, round(mib, 1)] for at, phase, mib in samples[:: len(samples) // SHOWN_SAMPLES + 1]
        ],
    }


def draw(runs: list[dict[str, Any]], path: Path) -> None:
    """The largest run over time, and the peaks of all, as PNG and SVG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 10, "axes.titlesize": 10, "svg.fonttype": "path", "svg.hashsalt": "spectr"}):
        figure = Figure(figsize=(13, 3.6), layout="constrained")
        over_time, peaks, costs = figure.subplots(1, 3, width_ratios=(3, 2, 2))
        last = runs[-1]
        for phase, colour in zip(PHASES, ("#e69f00", "#0072b2", "#009e73"), strict=True):
            points = [(at, mib) for at, name, mib in last["samples"] if name == phase]
            over_time.plot(*zip(*points, strict=True), color=colour, label=phase)
        over_time.set_title(f"{last['records']:,} records, {last['input_mib']:,.0f} MiB of input")
        over_time.set_xlabel("seconds")
        for phase, colour in zip(PHASES, ("#e69f00", "#0072b2", "#009e73"), strict=True):
            peaks.plot([run["records"] for run in runs], [run["peak_mib"][phase] for run in runs], ".-", color=colour)
        peaks.set_xscale("log")
        peaks.set_title("peaks")
        peaks.set_xlabel("records")
        for panel in (over_time, peaks):
            panel.set_ylim(0, 1.15 * max(max(run["peak_mib"].values()) for run in runs))
            panel.set_ylabel("resident memory (MiB)")
        sizes = [run["records"] for run in runs]
        spent = [run["microseconds_per_record"]["decoding"] for run in runs]
        costs.plot(sizes, spent, ".-", color="#0072b2")
        costs.set_xscale("log")
        costs.set_ylim(0, 1.15 * max(spent))
        costs.set_title("time of decoding")
        costs.set_xlabel("records")
        costs.set_ylabel("microseconds per record")
        over_time.legend(frameon=False, loc="lower right")
        figure.savefig(path.with_suffix(".png"), dpi=160, metadata={"Software": None})
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--records", "sizes", multiple=True, type=int, default=SIZES, help="Sizes of the inputs, ascending.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT)
def main(bundle: Path, sizes: tuple[int, ...], output: Path) -> None:
    """Measure, write the result file and draw it."""
    runs = []
    for size in sizes:
        runs.append(measure(bundle, size))
        click.echo(f"{size:>9,} records: peaks {runs[-1]['peak_mib']} MiB in {runs[-1]['seconds']} s", err=True)
    output.write_text(json.dumps(machine() | {"runs": runs}) + "\n", encoding="utf-8")
    draw(runs, output)


if __name__ == "__main__":
    main()
