"""Part d: the seconds of every rule's selection beside the bandwidth at which it would read its laws."""

from __future__ import annotations

import functools
import itertools
import statistics
from collections.abc import Callable, Iterator
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
WAYS = {"cuda": ("eager", "captured"), "cpu": ("eager",)}


def measure(day: Day, record: Record) -> None:
    """Measure every rule at every size, issued operator by operator, and then replayed as a graph of CUDA.

    A capture that fails may leave the GPU unusable for the process, so that all captures come last.
    """
    bytes_per_second = bandwidth(day.device)
    record.note("d", bandwidth=round(bytes_per_second))
    found: dict[str, dict[str, Any]] = {}
    for way in WAYS[day.device]:
        for cell, rule, work in _works(day):
            name = f"V={cell.vocabulary}, {cell.rows} rows, {rule}"
            sizes = {"rule": rule, "V": cell.vocabulary, "rows": cell.rows, "drafts": cell.drafts, "length": LENGTH}
            figures = _figures(work, way, day)
            if "seconds" in figures:
                figures["share"] = round(cell.bytes / figures["seconds"] / bytes_per_second, 4)
            found.setdefault(name, {**sizes, "bytes": cell.bytes})[way] = figures
            record.cell("d", name, found[name])
            print(name, way, figures, flush=True)


def _works(day: Day) -> Iterator[tuple[Cell, str, Callable[[], None]]]:
    """Yield every selection: its size, its rule, and what does it."""
    vocabularies, rows = SIZES[day.size]
    for vocabulary, batch, drafts in itertools.product(vocabularies, rows, (4, 1)):
        cell = Cell(vocabulary, batch, drafts, LENGTH)
        target_BNV, draft_BPV = laws(cell, day.device)
        for rule in cell.rules:
            noise = noise_of(batch, 1, day.device)
            tensors = (drawn(rule, cell.tree, draft_BPV, noise), target_BNV, draft_BPV)
            yield cell, rule, functools.partial(_select, rule, cell, tensors, noise)


def _select(rule: str, cell: Cell, tensors: tuple[torch.Tensor, ...], noise: Noise) -> None:
    """Select with noise that is made anew, as in every round."""
    tokens_BN, target_BNV, draft_BPV = tensors
    select(rule, cell.tree, tokens_BN, target_BNV, draft_BPV, Noise(noise.seed_B, noise.position_B))


def _figures(work: Callable[[], None], way: str, day: Day) -> dict[str, Any]:
    """Return the median seconds of a selection; what cannot be captured says why."""
    try:
        done = captured(work) if way == "captured" else work
        return {"seconds": statistics.median(seconds_of(done, day.device, 5 * day.repeats))}
    except RuntimeError as error:  # of PyTorch, whatever a rule does that a graph cannot hold
        return {"error": first_line(error)}
