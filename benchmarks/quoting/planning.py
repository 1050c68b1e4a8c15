"""What ``auto`` keeps of the best race's speed, and what other shapes would gain: ``regret.py`` and ``shapes.py``."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from quoting.words import counted, listed, measured, table


def kept(results: dict[str, Any]) -> str:
    """How it was computed, and a line for each number of rows and weather."""
    cells = next(iter(next(iter(results.values()))["rows"].values()))["cells"]
    lengths = sorted({cell["rounds"] for cell in cells})
    rates = len({cell["acceptance"] for cell in cells})
    heads = [f"{name.split(', ')[-1]}, {rounds} rounds" for name in results for rounds in lengths]
    when = listed(dict.fromkeys(measured(models) for models in results.values()))
    return (
        f"Costs of rounds of the padded pair were measured {when}. Means over {counted(rates, 'rate')} of acceptance "
        "and twenty runs of each, and the least of the runs, as shares of the tokens per second of the best race:\n\n"
        + table(("rows", "weather", *heads), lines(results, lengths))
    )


def lines(results: dict[str, Any], lengths: list[int]) -> Iterator[list[str]]:
    """Yield a line for each number of rows and weather."""
    for rows in next(iter(results.values()))["rows"]:
        for uneven, weather in ((False, "even"), (True, "uneven")):
            shown = []
            for models in results.values():
                for rounds in lengths:
                    found = [
                        cell
                        for cell in models["rows"][rows]["cells"]
                        if (cell["rounds"], cell["uneven"]) == (rounds, uneven)
                    ]
                    mean, least = statistics.fmean(one["mean"] for one in found), min(one["least"] for one in found)
                    shown.append(f"{mean:.2f} ({least:.2f})")
            yield [rows, weather, *shown]


def shapes(result: dict[str, Any]) -> str:
    """The most that a chain, several paths or a tree would gain by the recorded costs."""
    found = [line for models in result["gains"].values() for cells in models.values() for line in cells]
    most = {kind: max(line[kind]["gain"] for line in found) for kind in ("chain", "paths", "tree")}
    rates = [line["acceptance"] for line in found]
    return (
        "By such costs of the padded pair, in float32 and int8 at one row and at eight, the best chain of up to 16 "
        f"tokens would decode {most['chain']:.2f} times as fast as the best race of the menu at most, the best of up "
        f"to four paths {most['paths']:.2f} times, and the tree with most expected tokens for up to 32 drafts "
        f"{most['tree']:.2f} times, for rates of acceptance from {min(rates)} to {max(rates)}."
    )


QUOTES = {"regret": ("regret.json", kept), "shapes": ("shapes.json", shapes)}
