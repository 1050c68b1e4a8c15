"""What fusing the work between two calls would save: from logits to laws and the token of a race, eager and compiled.

    python benchmarks/fused.py

``torch.compile`` makes one loop of some thirty operations, where a C++ compiler is installed. Both ways take the same
logits, in turns, and every shape has a process of its own. Told are the medians, their ratio, the seconds of compiling,
and whether the laws and the tokens are the same: rows whose texts depend on whether a machine has a compiler would not
be reproducible.
"""

# B rows, V vocabulary.
from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import click
import torch
from machine import machine

from spectr_runtime import SamplingParams
from spectr_runtime.laws.sampling import Sampling
from spectr_select import Noise, Role

VOCABULARIES, ROWS = (4096, 49_152), (1, 8)

Step = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def step_of(rows: int, vocabulary: int) -> Step:
    """A function of logits [B, 1, V], seeds [B] and positions [B] that returns laws [B, 1, V] and tokens [B]."""
    sampling = Sampling.of([SamplingParams()] * rows, vocabulary, torch.device("cpu"))

    def step(
        logits_B1V: torch.Tensor, seed_B: torch.Tensor, position_B: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        law_B1V, _ = sampling.laws(logits_B1V)
        time_BV = Noise(seed_B, position_B).exponential(Role.RACE, 0, vocabulary)
        return law_B1V, (time_BV / law_B1V[:, 0]).argmin(1)

    return step


@torch.inference_mode()
def measure(vocabulary: int, rows: int, repeats: int) -> dict[str, Any]:
    """Times and results of both ways for one shape."""
    torch.compiler.reset()
    eager = step_of(rows, vocabulary)
    compiled: Step = torch.compile(eager, dynamic=False)
    logits_B1V = 3 * torch.randn((rows, 1, vocabulary), generator=torch.Generator().manual_seed(0))
    given = logits_B1V, torch.arange(rows), torch.full((rows,), 64)
    started = time.perf_counter()
    compiled(*given)
    seconds = time.perf_counter() - started
    taken: dict[str, list[float]] = {"eager": [], "compiled": []}
    for _ in range(repeats):
        for name, way in (("eager", eager), ("compiled", compiled)):
            started = time.perf_counter()
            way(*given)
            taken[name].append(1e3 * (time.perf_counter() - started))
    ratios = [one / other for one, other in zip(taken["eager"], taken["compiled"], strict=True)]
    (law, token), (law_compiled, token_compiled) = eager(*given), compiled(*given)
    return {
        "vocabulary": vocabulary,
        "rows": rows,
        "milliseconds": {name: round(statistics.median(values), 3) for name, values in taken.items()},
        "ratio": [round(quartile, 2) for quartile in statistics.quantiles(ratios, n=4)],
        "seconds_to_compile": round(seconds, 1),
        "same_laws": torch.equal(law, law_compiled),
        "same_tokens": torch.equal(token, token_compiled),
    }


def measure_apart(vocabulary: int, rows: int, repeats: int) -> dict[str, Any]:
    """Measure one shape in a process of its own, because compiled code may end it."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as processes:
        try:
            return processes.submit(measure, vocabulary, rows, repeats).result()
        except BrokenProcessPool as error:
            return {"vocabulary": vocabulary, "rows": rows, "failed": str(error)}


@click.command()
@click.option("--vocabulary", "vocabularies", multiple=True, type=int, default=VOCABULARIES, show_default=True)
@click.option("--rows", "sizes", multiple=True, type=int, default=ROWS, show_default=True)
@click.option("--repeats", default=100, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "fused.json")
def main(vocabularies: tuple[int, ...], sizes: tuple[int, ...], repeats: int, output: Path) -> None:
    """Measure and write the result file."""
    lines = [measure_apart(vocabulary, rows, repeats) for vocabulary in vocabularies for rows in sizes]
    output.write_text(json.dumps(machine() | {"repeats": repeats, "lines": lines}, indent=1) + "\n", encoding="utf-8")
    for line in lines:
        click.echo("  ".join(f"{name} {value}" for name, value in line.items()))


if __name__ == "__main__":
    main()
