"""Part b: plans beside plain decoding, of a target of a given size."""

from __future__ import annotations

import gc
import itertools
import operator
import os
import statistics
import sys
import tempfile
import traceback
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from gpu_day.day import PROMPT, SIZES, Day, plan_of
from gpu_day.device import bandwidth, watch_kernels
from gpu_day.padded import Padded, requests_of
from gpu_day.record import Record, first_line
from gpu_day.rounds import Rounds, Watched
from spectr_runtime import Decoder

TOGETHER = 5  # plans beside plain decoding; caches of more would not fit into 80 GB at 128 rows
PROFILED = ("plain", "single:1:4", "race:1:4", "kseq:4:4")
DTYPE = "bfloat16"


def measure(day: Day, record: Record) -> None:
    """Measure every plan at every number of rows, a few of them in turns with plain decoding."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        bytes_per_second = bandwidth(day.device)
        pair = Padded(Path(folder) / "pair", SIZES[day.size], DTYPE, day.device)
        gc.freeze()  # so that collecting before every recording looks at little
        record.note("b", bandwidth=round(bytes_per_second), **{f"target {day.size}": pair.facts})
        others = [cell for cell in day.cells if cell != "plain"]
        for rows, first in itertools.product(day.rows, range(0, max(len(others), 1), TOGETHER)):
            _group(day, pair, rows, others[first : first + TOGETHER], bytes_per_second, record)
            _give_back(day)
        if day.device == "cuda":  # last, since what watches the GPU slows it down from then on
            watch_kernels()
            for rows, cell in itertools.product(day.rows, PROFILED):
                _idle(day, pair, rows, cell, record)
                _give_back(day)


def _give_back(day: Day) -> None:
    """Give back the memory of decoders that are gone."""
    gc.collect()
    if day.device == "cuda":
        torch.cuda.empty_cache()


def _idle(day: Day, pair: Padded, rows: int, cell: str, record: Record) -> None:
    """Add to a cell the share of its rounds in which no kernel runs."""
    name = name_of(day.size, rows, cell)
    figures = record.read()["parts"]["b"]["cells"].get(name, {})
    if "round_seconds" not in figures:
        return
    try:
        busy = _open(day, pair, rows, cell).busy(requests_of(pair.bundle, rows, day.tokens))
        figures["idle"] = None if busy is None else round(1 - busy / figures["round_seconds"], 4)
    except RuntimeError as error:
        figures["idle_error"] = first_line(error)
    record.cell("b", name, figures)
    print(name, "idle", figures.get("idle"), flush=True)


def _open(day: Day, pair: Padded, rows: int, cell: str) -> Watched:
    plan = plan_of(cell)
    return Watched(Decoder(pair.bundle, plan=plan, backend="torch", device=day.device, batch_size=rows))


def _group(day: Day, pair: Padded, rows: int, cells: Sequence[str], bytes_per_second: float, record: Record) -> None:
    """Measure some plans in turns with plain decoding. One that fails leaves the others be."""
    requests = [requests_of(pair.bundle, rows, day.tokens, turn) for turn in range(day.repeats + 1)]
    taken: dict[str, list[Rounds]] = {}
    opened: dict[str, Watched] = {}
    for cell in ("plain", *cells):
        with _Attempt(record, day, rows, cell) as attempt:
            opened[cell] = _open(day, pair, rows, cell)
            if cell == "auto":
                opened[cell].decode(requests[-1])  # learns costs
        if attempt.failed:
            opened.pop(cell, None)
    for repeat, place in itertools.product(range(day.repeats), range(len(opened))):
        cell = [*opened][(place + repeat) % len(opened)]
        with _Attempt(record, day, rows, cell):
            taken.setdefault(cell, []).append(opened[cell].decode(requests[repeat]))
    whole = {cell: runs for cell, runs in taken.items() if len(runs) == day.repeats}
    for cell, runs in whole.items():
        figures = line(runs, whole.get("plain"))
        if cell == "plain":
            figures["bandwidth_share"] = _share(pair, rows, day.tokens, figures["round_seconds"], bytes_per_second)
        record.cell("b", name_of(day.size, rows, cell), {"size": day.size, "rows": rows, "plan": cell} | figures)
        print(day.size, rows, cell, figures, flush=True)


class _Attempt:
    """Notes an error in the place of a cell's figures, and goes on."""

    def __init__(self, record: Record, day: Day, rows: int, cell: str) -> None:
        self.failed = False
        self._record, self._name = record, name_of(day.size, rows, cell)
        self._cell = {"size": day.size, "rows": rows, "plan": cell}

    def __enter__(self) -> _Attempt:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if not isinstance(error, Exception):
            return False
        self.failed = True
        traceback.print_exception(error, file=sys.stderr)
        self._record.cell("b", self._name, self._cell | {"error": first_line(error)})
        return True


def name_of(size: str, rows: int, cell: str) -> str:
    """Return the name of a cell in the result file."""
    return f"{size}, {rows} rows, {cell}"


def line(runs: Sequence[Rounds], plain: Sequence[Rounds] | None) -> dict[str, Any]:
    """Return the figures of a plan, given its repeats and those of plain decoding, turn by turn."""
    last = runs[-1]
    rows = len(last.texts)
    figures: dict[str, Any] = {
        "tokens_per_second": spread(run.speed for run in runs),
        "tokens_per_pass": round(sum(run.tokens for run in runs) / sum(run.count for run in runs) / rows, 3),
        "round_seconds": statistics.median(run.seconds / run.count for run in runs),
        "with_recording": statistics.median(run.spent / run.count for run in runs),
        "plans": dict(last.plans),
    }
    if plain is None:
        return figures
    pairs = ((last.texts[row], text) for row, text in plain[-1].texts.items())
    same = sum(all(map(operator.eq, *pair)) for pair in pairs)  # as far as both were written
    ratios = (one.speed / other.speed for one, other in zip(runs, plain, strict=True))
    return figures | {"to_plain": spread(ratios), "texts_of_plain": same}


def spread(found: Iterable[float]) -> dict[str, float]:
    """Return the median of some figures and their range, to four digits."""
    figures = sorted(found)
    named: Mapping[str, float] = {"median": statistics.median(figures), "least": figures[0], "most": figures[-1]}
    return {name: float(f"{one:.4g}") for name, one in named.items()}


def _share(pair: Padded, rows: int, tokens: int, seconds: float, bytes_per_second: float) -> float:
    """Return the share of the bandwidth at which a plain pass reads the weights and the rows' keys and values."""
    read = pair.weight_bytes + rows * (PROMPT + tokens / 2) * pair.slot_bytes
    return round(read / seconds / bytes_per_second, 4)
