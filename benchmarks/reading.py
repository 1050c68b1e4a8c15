"""What reading prompts costs: alone, together, and with target and draft at once.

    python benchmarks/reading.py build/demo/bundle

Prompts of some lengths are read into empty caches, one after the other and in one call; what a call costs beside its
tokens follows from the two, in tokens that could be read instead. Then both models read the same prompts, one model
after the other and each in a thread of its own. The ways take turns. Told are medians in milliseconds, and medians of
the ratios within a turn with their quartiles.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import click
import torch
from machine import machine

from spectr_runtime.bundle import Bundle
from spectr_runtime.contract import Engine
from spectr_runtime.reading.prefill import prefill
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import Plan

RESULT = Path(__file__).parent / "results" / "reading.json"


def read(engine: Engine, texts: Sequence[Sequence[int]], chunk: int, first: int = 0) -> None:
    """Read texts in calls of all of them."""
    with torch.inference_mode():
        prefill(engine, texts, [0] * len(texts), first, chunk, torch.device("cpu"))


def one_by_one(engine: Engine, texts: Sequence[Sequence[int]], chunk: int) -> None:
    """Read texts in calls of their own."""
    for place, text in enumerate(texts):
        read(engine, [text], chunk, place)


def ways_of(pair: Pair, texts: Sequence[Sequence[int]], chunk: int) -> Mapping[str, Callable[[], object]]:
    """The ways to read the texts."""
    assert pair.draft is not None
    engines = (pair.target, pair.draft)
    threads = ThreadPoolExecutor(len(engines))

    def both() -> None:
        for engine in engines:
            read(engine, texts, chunk)

    def at_once() -> None:
        for done in [threads.submit(read, engine, texts, chunk) for engine in engines]:
            done.result()

    return {
        "target, one by one": partial(one_by_one, pair.target, texts, chunk),
        "target, together": partial(read, pair.target, texts, chunk),
        "both, one behind the other": both,
        "both at once": at_once,
    }


def measure(ways: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of every way, turn by turn after one that is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for name in order:
            started = time.perf_counter()
            ways[name]()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def ratios(own: Sequence[float], base: Sequence[float]) -> list[float]:
    """Lower quartile, median and upper quartile of what one way takes of the time of another."""
    shares = [one / other for one, other in zip(own, base, strict=True)]
    return [round(one, 3) for one in statistics.quantiles(shares, n=4, method="inclusive")]


def line(rows: int, tokens: int, seconds: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """One line of the result."""
    median = {name: statistics.median(taken) for name, taken in seconds.items()}
    apart, together = median["target, one by one"], median["target, together"]
    call = (apart - together) / (rows - 1) if rows > 1 else None
    per_token = (together - (call or 0.0)) / (rows * tokens)
    return {
        "rows": rows,
        "tokens": tokens,
        "milliseconds": {name: round(1e3 * one, 2) for name, one in median.items()},
        "together_of_one_by_one": ratios(seconds["target, together"], seconds["target, one by one"]),
        "at_once_of_one_behind_the_other": ratios(seconds["both at once"], seconds["both, one behind the other"]),
        "call_costs_tokens": None if call is None else round(call / per_token, 1),
    }


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@click.option("--tokens", "lengths", multiple=True, type=int, default=(16, 64, 192), show_default=True)
@click.option("--rows", "sizes", multiple=True, type=int, default=(1, 2, 8), show_default=True)
@click.option("--repeats", default=12, show_default=True)
@click.option("-o", "--output", default=RESULT, type=click.Path(path_type=Path))
def main(bundle: Path, lengths: tuple[int, ...], sizes: tuple[int, ...], repeats: int, output: Path) -> None:
    """Measure and write the result file."""
    opened = Bundle.open(bundle)
    pair = Pair(opened, [Plan("race", 1, 4)], backend="onnxruntime", device="cpu", rows=max(sizes))
    chunk, vocabulary = opened.manifest.limits.tokens_per_call, opened.manifest.vocabulary.size
    lines = []
    for tokens in lengths:
        for rows in sizes:
            generator = torch.Generator().manual_seed(rows * tokens)
            texts = torch.randint(vocabulary, (rows, tokens + 1), generator=generator).tolist()
            lines.append(line(rows, tokens, measure(ways_of(pair, texts, chunk), repeats)))
            click.echo(json.dumps(lines[-1]))
    output.write_text(json.dumps(machine() | {"repeats": repeats, "lines": lines}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
