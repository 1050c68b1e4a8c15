"""Part d: the seconds of every rule's selection beside the bandwidth at which it would read its laws."""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable
from typing import Any

import torch
from selection import Cell, drawn, laws, noise_of

from gpu_day.day import Day
from gpu_day.device import bandwidth, captured, seconds_of
from gpu_day.record import Record, first_line
from spectr_select import Noise, select

# V vocabulary, B rows; with the sizes of targets.
SIZES = {"toy": ((4096,), (1, 8)), "1b": ((32_768, 151_936), (1, 8, 64)), "7b": ((32_768, 151_936), (1, 8, 64))}
LENGTH = 4


def measure(day: Day, record: Record) -> None:
    """Measure every rule at every size, issued operator by operator, and replayed as a graph of CUDA."""
    bytes_per_second = bandwidth(day.device)
    record.note("d", bandwidth=round(bytes_per_second))
    vocabularies, rows = SIZES[day.size]
    for vocabulary, batch, drafts in itertools.product(vocabularies, rows, (4, 1)):
        cell = Cell(vocabulary, batch, drafts, LENGTH)
        target_BNV, draft_BPV = laws(cell, day.device)
        for rule in cell.rules:
            noise = noise_of(batch, 1, day.device)
            tensors = (drawn(rule, cell.tree, draft_BPV, noise), target_BNV, draft_BPV)
            work = functools.partial(_select, rule, cell, tensors, noise)
            figures = _figures(work, cell.bytes, bytes_per_second, day)
            name = f"V={vocabulary}, {batch} rows, {rule}"
            sizes = {"rule": rule, "V": vocabulary, "rows": batch, "drafts": drafts, "length": LENGTH}
            record.cell("d", name, sizes | {"bytes": cell.bytes} | figures)
            print(name, figures, flush=True)


def _select(rule: str, cell: Cell, tensors: tuple[torch.Tensor, ...], noise: Noise) -> None:
    """Select with noise that is made anew, as in every round."""
    tokens_BN, target_BNV, draft_BPV = tensors
    select(rule, cell.tree, tokens_BN, target_BNV, draft_BPV, Noise(noise.seed_B, noise.position_B))


def _figures(work: Callable[[], None], size: int, bytes_per_second: float, day: Day) -> dict[str, Any]:
    """Return the median seconds of both ways, and the share of the bandwidth; what cannot be captured says why."""
    found: dict[str, Any] = {}
    ways = {"eager": lambda: work} | ({"captured": lambda: captured(work)} if day.device == "cuda" else {})
    for way, make in ways.items():
        try:
            seconds = statistics.median(seconds_of(make(), day.device, 5 * day.repeats))
        except RuntimeError as error:  # of PyTorch, whatever a rule does that a graph cannot hold
            found[way] = {"error": first_line(error)}
        else:
            found[way] = {"seconds": seconds, "share": round(size / seconds / bytes_per_second, 4)}
    return found
