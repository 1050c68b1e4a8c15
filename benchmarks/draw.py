"""What it costs to draw a token without drafts: by the race of plain decoding, and by inverting the cumulative law.

    python benchmarks/draw.py

Both draw from the same laws, in turns. Inverting the law takes one uniform number a row, a race one exponential number
for every token of the vocabulary; in exchange, every race writes the same text, whatever was drafted.
"""

# B rows, V vocabulary.
from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import torch
from machine import machine

from spectr_select import DraftTree, Noise, select

VOCABULARIES, ROWS = (4096, 49_152, 151_936), (1, 8)
ROOT = DraftTree.chain(0)


def drawing(rule: str, law_B1V: torch.Tensor) -> Callable[[], object]:
    """A function that draws a token for every row, with noise of its own every time."""
    rows, turn = len(law_B1V), iter(range(2**40))
    root_B1, none = torch.zeros((rows, 1), dtype=torch.int64), torch.empty((rows, 0, 0))

    def draw() -> object:
        noise = Noise(torch.arange(rows), torch.full((rows,), next(turn)))
        return select(rule, ROOT, root_B1, law_B1V, none, noise).token_B

    return draw


def measure(vocabulary: int, rows: int, repeats: int) -> dict[str, Any]:
    """Medians and quartiles of the milliseconds of both, and of their ratio."""
    law_B1V = (3 * torch.randn((rows, 1, vocabulary), generator=torch.Generator().manual_seed(0))).softmax(2)
    ways = {"race": drawing("race", law_B1V), "inverse": drawing("single", law_B1V)}
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 2):
        for name, draw in ways.items():
            started = time.perf_counter()
            draw()
            if turn >= 2:
                taken[name].append(1e3 * (time.perf_counter() - started))
    ratios = [race / inverse for race, inverse in zip(taken["race"], taken["inverse"], strict=True)]
    figures = taken | {"ratio": ratios}
    return {"vocabulary": vocabulary, "rows": rows} | {
        name: [round(quartile, 3) for quartile in statistics.quantiles(values, n=4)] for name, values in figures.items()
    }


@click.command()
@click.option("--repeats", default=200, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "draw.json")
def main(repeats: int, output: Path) -> None:
    """Measure and write the result file."""
    torch.set_num_threads(1)
    lines = [measure(vocabulary, rows, repeats) for vocabulary in VOCABULARIES for rows in ROWS]
    facts = {"threads": torch.get_num_threads(), "repeats": repeats, "lines": lines}
    output.write_text(json.dumps(machine() | facts, indent=1) + "\n", encoding="utf-8")
    for line in lines:
        click.echo("  ".join(f"{name} {value}" for name, value in line.items()))


if __name__ == "__main__":
    main()
