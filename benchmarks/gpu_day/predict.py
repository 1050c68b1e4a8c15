"""The figures of a GPU, foretold without one: counted operators, bytes, and a model of the device.

A round that is replayed takes what the target's products take, which is the larger one of reading its weights, keys and
values and of the arithmetic, and the time of a small kernel for each other operator. A round that is issued operator by
operator takes at least the time of issuing them. Both wait for the host between rounds. Operators are counted on the
CPU with the layers of the target and the widths of the demo's; how much is accepted is measured on the demo's pair,
whose law a padded target has. Nothing is foretold of the tests, of texts that differ, nor of other engines.
"""

# V vocabulary.
from __future__ import annotations

import itertools
import os
import statistics
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pad_target
import torch
from selection import Cell, drawn, laws, noise_of
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM

from gpu_day.day import CELLS, DEMO, PROMPT, ROWS, SIZES, TOKENS, Day, Size, plan_of
from gpu_day.decoding import name_of
from gpu_day.padded import Padded, requests_of
from gpu_day.record import Record
from gpu_day.rounds import Watched
from gpu_day.selecting import LENGTH
from gpu_day.selecting import SIZES as SELECTED
from spectr_runtime import Decoder
from spectr_runtime.planning.planner import RACES
from spectr_select import Noise, select

# The model of the device.
BANDWIDTH = 0.8 * 3.35e12  # bytes per second: 80 % of what the data sheet of NVIDIA's H100 SXM says
ARITHMETIC = 0.7 * 989e12  # operations per second: 70 % of its dense bfloat16, likewise
ISSUE = 5e-6  # seconds in which PyTorch issues an operator, as its profiler commonly shows
KERNEL = 1.5e-6  # seconds of a small kernel that is replayed, as graphs of CUDA commonly show
HOST, HOST_ROW = 1e-4, 6e-6  # seconds of the host between rounds, and for each row: host.json has 0.5 ms at 64 rows
MODEL = {
    "bandwidth": BANDWIDTH, "arithmetic": ARITHMETIC, "issue": ISSUE, "kernel": KERNEL, "host": HOST,
    "host_row": HOST_ROW,
}  # fmt: skip
ACCEPTED_ROWS, COUNTED_TOKENS, COUNTED_V = 24, 24, 32_768
PLANS = (*(f"race:{plan.drafts}:{plan.length}" for plan in RACES if plan.drafts), *CELLS)
WITHOUT_GRAPH = ("otm", "otm-block")  # rules with a solver of their own, of which operators say nothing


class Operators(TorchDispatchMode):
    """Counts operators that would start a kernel, and the bytes that they read and write.

    Attributes:
        count: Their number so far.
        bytes: The bytes so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        given, made = [*_tensors(args), *_tensors((kwargs or {}).values())], [*_tensors((result,))]
        places = {tensor.untyped_storage().data_ptr() for tensor in given}
        fresh = [tensor for tensor in made if tensor.untyped_storage().data_ptr() not in places]
        if (fresh or func._schema.is_mutable) and not func.__name__.startswith("empty"):
            self.count += 1
            self.bytes += sum(tensor.nbytes for tensor in (*given, *made))
        return result


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


def measure(day: Day, record: Record) -> None:
    """Foretell parts b and d."""
    record.head({"predicted": MODEL})
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = f"{folder}/cache"
        accepted = _accepted(Path(folder))
        record.note("b", bandwidth=BANDWIDTH, tokens_per_pass=accepted)
        counted = operators_of(Path(folder), [plan for plan in dict.fromkeys(PLANS) if plan != "auto"])
        for name in ("7b", "1b"):
            size = SIZES[name]
            operators = {plan: one.of(size.layers) for plan, one in counted.items()}
            for rows in sorted(ROWS):
                figures_of = rounds_of(size, rows, operators, accepted)
                for plan, figures in ((plan, figures_of[plan]) for plan in CELLS):
                    cell = {"size": name, "rows": rows, "plan": plan}
                    record.cell("b", name_of(name, rows, plan), cell | figures)
    record.note("d", bandwidth=BANDWIDTH)
    for name, figures in _selections():
        record.cell("d", name, figures)


def _accepted(folder: Path) -> dict[str, float]:
    """Return the tokens that a pass writes for a row, by plan, of the demo's pair."""
    pair = Padded(folder / "toy", SIZES["toy"], "float32", "cpu")
    requests = requests_of(pair.bundle, ACCEPTED_ROWS, TOKENS)
    found = {}
    for plan in dict.fromkeys(PLANS):
        if plan != "auto":
            rounds = _watched(pair, plan, ACCEPTED_ROWS).decode(requests)
            found[plan] = round(rounds.tokens / rounds.count / ACCEPTED_ROWS, 3)
            print(plan, found[plan], "tokens a pass", flush=True)
    return found


def _watched(pair: Padded, plan: str, rows: int) -> Watched:
    return Watched(Decoder(pair.bundle, plan=plan_of(plan), backend="torch", batch_size=rows))


class Counted(NamedTuple):
    """Operators of a round, of a thin target with the demo's layers."""

    all: int
    of_a_layer: int

    def of(self, layers: int) -> int:
        """Return the operators of a round whose target has so many layers."""
        return self.all + (layers - SIZES["toy"].layers) * self.of_a_layer


def operators_of(folder: Path, plans: Sequence[str]) -> dict[str, Counted]:
    """Return the operators of a round, by plan; every round has one pass of the target.

    Args:
        folder: Where models without weights of their own go.
        plans: The plans, as ``plan_of`` reads them.
    """
    toy = SIZES["toy"]
    pairs = [
        Padded(folder / f"{layers}-layers", toy._replace(layers=layers), "float32", "cpu")
        for layers in (toy.layers, toy.layers + 1)
    ]
    of_a_layer = _counted(pairs[1], "plain") - _counted(pairs[0], "plain")
    return {plan: Counted(_counted(pairs[0], plan), of_a_layer) for plan in plans}


def _counted(pair: Padded, plan: str) -> int:
    """Return the operators of a round behind the first one, which makes what later ones use again."""
    watched, counts, operators = _watched(pair, plan, 1), list[int](), Operators()
    watched.after = lambda turns: counts.append(operators.count)
    with operators:
        watched.decode(requests_of(pair.bundle, 1, COUNTED_TOKENS))
    found = int(statistics.median(after - before for before, after in itertools.pairwise(counts)))
    print(f"{plan}: {found} operators", flush=True)
    return found


def _sizes_of(size: Size) -> tuple[int, int, int]:
    """Return the parameters of a padded target, its products with weights, and the bytes of a token's keys and values.

    Weights, keys and values are in bfloat16.
    """
    with torch.device("meta"):
        source = AutoModelForCausalLM.from_config(pad_target.LlamaConfig.from_pretrained(DEMO / "target"))
        config = pad_target.widened(source.config, *size)
        model = AutoModelForCausalLM.from_config(config)
    slot = 2 * 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    return sum(one.numel() for one in model.parameters()), 7 * config.num_hidden_layers + 1, slot


def rounds_of(
    size: Size, rows: int, operators: Mapping[str, int], accepted: Mapping[str, float]
) -> dict[str, dict[str, Any]]:
    """Return the figures of every plan; auto takes the fastest race.

    Args:
        size: Of the target.
        rows: Rows that are decoded together.
        operators: Operators of a round, by plan.
        accepted: Tokens that a pass writes for a row, by plan.
    """
    parameters, products, slot = _sizes_of(size)
    found: dict[str, dict[str, Any]] = {}
    for plan, count in operators.items():
        nodes, read = plan_of(plan).tree.size, 2 * parameters + rows * (PROMPT + TOKENS / 2) * slot  # type: ignore[union-attr]
        target = max(read / BANDWIDTH, 2 * parameters * rows * nodes / ARITHMETIC)
        busy, host = target + (count - products) * KERNEL, HOST + HOST_ROW * rows
        seconds, issued = busy + host, max(busy, count * ISSUE) + host
        found[plan] = {
            "tokens_per_second": {"median": float(f"{rows * accepted[plan] / seconds:.4g}")},
            "issued_tokens_per_second": {"median": float(f"{rows * accepted[plan] / issued:.4g}")},
            "tokens_per_pass": accepted[plan], "round_seconds": seconds, "operators": count,
            "idle": round(1 - busy / seconds, 4),
        }  # fmt: skip
        if plan == "plain":
            found[plan]["bandwidth_share"] = round(read / seconds / BANDWIDTH, 4)
    races = [plan for plan in found if plan.startswith(("race", "plain"))]
    best = max(races, key=lambda plan: found[plan]["tokens_per_second"]["median"])
    found["auto"] = {**found[best], "plans": {best: 1}}
    plain = found["plain"]["tokens_per_second"]["median"]
    for figures in found.values():
        figures["to_plain"] = {"median": round(figures["tokens_per_second"]["median"] / plain, 3)}
    return found


def _selections() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the figures of selection, whose bytes grow with the vocabulary and the rows."""
    for drafts in (4, 1):
        counted = Cell(COUNTED_V, 1, drafts, LENGTH)
        target_BNV, draft_BPV = laws(counted)
        for rule in counted.rules:
            if rule in WITHOUT_GRAPH:
                continue
            noise = noise_of(1, 1)
            tokens_BN = drawn(rule, counted.tree, draft_BPV, noise)
            with Operators() as operators:
                select(rule, counted.tree, tokens_BN, target_BNV, draft_BPV, Noise(noise.seed_B, noise.position_B))
            vocabularies, batches = SELECTED["7b"]
            for vocabulary in vocabularies:
                for rows in batches:
                    yield _selection(rule, Cell(vocabulary, rows, drafts, LENGTH), operators)


def _selection(rule: str, cell: Cell, counted: Operators) -> tuple[str, dict[str, Any]]:
    moved = counted.bytes * cell.rows * cell.vocabulary / COUNTED_V
    captured = counted.count * KERNEL + moved / BANDWIDTH
    eager = max(counted.count * ISSUE, captured)
    ways = {
        way: {"seconds": seconds, "share": round(cell.bytes / seconds / BANDWIDTH, 4)}
        for way, seconds in (("eager", eager), ("captured", captured))
    }
    sizes = {"rule": rule, "V": cell.vocabulary, "rows": cell.rows, "drafts": cell.drafts, "length": cell.length}
    facts = {"bytes": cell.bytes, "operators": counted.count}
    return f"V={cell.vocabulary}, {cell.rows} rows, {rule}", sizes | facts | ways
