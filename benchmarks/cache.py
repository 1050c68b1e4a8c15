"""How many rows fit into a gigabyte of cache, with the capacity reserved and with memory as needed; what growing costs.

    python benchmarks/cache.py

The sizes are those of SmolLM2-135M in float32: 30 layers, 3 key/value heads of 64 numbers. Rows have the lengths of an
input, and each writes as many tokens as its record allows. A batch is kept full and decoded plainly. ``examples`` is
``examples/prompts.jsonl`` in tokens of the demo pair. ``mixture`` is made up: nine of ten rows have prompts of 50 to
200 tokens and write 20 to 200, the others have prompts of 500 to 1,200 and write 100 to 400. ``short`` is the nine
tenths alone.

*Before*, a row has the slots of the whole capacity. *After* is the cache itself, told the length of every call as an
engine tells it; its largest memory counts, also while it grows, when a piece is there twice. The number of rows is
found without memory and then confirmed with it. Last, a model of random weights decodes a part of the mixture in
PyTorch, and the time in which the cache grows or shrinks is set against the time of all calls.
"""

# B rows, T tokens fed, L attention length.
from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import click
import torch
from machine import machine
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from spectr_runtime import Call, ModelSpec
from spectr_runtime.contract import KVCache
from spectr_runtime.contract.mask import aligned, block_mask, triangle
from spectr_runtime.engines import buffers
from spectr_runtime.engines.torch import TorchEngine

GIGABYTE = 10**9
CAPACITIES = (2048, 8192)
INPUTS = ("examples", "short", "mixture")
RECORDS = 2000  # of the inputs that are made up; another input is repeated
TIMED_ROWS, TIMED_RECORDS = 8, 20
SPEC = ModelSpec("llama", 30, 3, 64, 49_152, 8192)
CONFIG = LlamaConfig(
    vocab_size=SPEC.vocabulary, hidden_size=576, intermediate_size=1536, num_hidden_layers=SPEC.layers,
    num_attention_heads=9, num_key_value_heads=SPEC.kv_heads, max_position_embeddings=SPEC.max_positions,
    tie_word_embeddings=False, bos_token_id=0, eos_token_id=0, pad_token_id=0,
)  # fmt: skip
EXAMPLES = Path(__file__).parent.parent / "examples"


class Lengths(NamedTuple):
    """The tokens of a row: those of its prompt, and those that it writes."""

    prompt: int
    written: int


class Feed(NamedTuple):
    """A call: the rows from ``first_row`` on are fed so many tokens behind texts of these lengths."""

    first_row: int
    behind: Sequence[int]
    tokens: int

    @property
    def length(self) -> int:
        """The attention length."""
        return aligned(max(self.behind) + self.tokens)


class MeasuredCache(KVCache):
    """A cache that takes note of how often it grows or shrinks, for how long, and of its largest memory."""

    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self.moves, self.seconds, self.peak = 0, 0.0, self.nbytes

    def resize(self, slots: int) -> None:
        """See ``KVCache``; the first piece that is copied and the last one are when most memory is taken."""
        before, old, started = self.nbytes, self.pieces[-1].nbytes, time.perf_counter()
        super().resize(slots)
        self.seconds += time.perf_counter() - started
        self.moves += 1
        self.peak = max(self.peak, before + self.pieces[0].nbytes, self.nbytes + old)


def examples() -> list[Lengths]:
    """The records of the example."""
    tokenizer = AutoTokenizer.from_pretrained(EXAMPLES / "demo_pair" / "target")
    lines = (EXAMPLES / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    bodies = [record.get("body", record) for record in map(json.loads, lines)]
    return [Lengths(len(tokenizer.encode(body["prompt"])), body["max_tokens"]) for body in bodies]


def made_up(long_share: float) -> list[Lengths]:
    """Records of two kinds, as the head of the script says."""
    chooser = random.Random(0)

    def record() -> Lengths:
        if chooser.random() < long_share:
            return Lengths(chooser.randint(500, 1200), chooser.randint(100, 400))
        return Lengths(chooser.randint(50, 200), chooser.randint(20, 200))

    return [record() for _ in range(RECORDS)]


def calls(records: Sequence[Lengths], rows: int) -> Iterator[Feed]:
    """The calls of plain decoding: rows are read when they come, and all are fed a token in every round."""
    waiting, batch = iter(records), dict[int, list[int]]()  # by row, the tokens so far and those at the end
    while True:
        for row in set(range(rows)) - batch.keys():
            if (record := next(waiting, None)) is not None:
                batch[row] = [record.prompt, record.prompt + record.written]
                yield Feed(row, [0], record.prompt)
        if not batch:
            return
        yield Feed(0, [batch[row][0] if row in batch else 0 for row in range(max(batch) + 1)], 1)
        for row, text in list(batch.items()):
            text[0] += 1
            if text[0] >= text[1]:
                del batch[row]


def used(records: Sequence[Lengths], rows: int, capacity: int, device: str) -> MeasuredCache:
    """The cache after a batch of so many rows was decoded in it."""
    several = [*records] * max(1, -(-10 * rows // len(records)))
    sizes = (SPEC.layers, rows, SPEC.kv_heads, capacity, SPEC.head_size)
    cache = MeasuredCache(*sizes, dtype=torch.float32, device=torch.device(device), grows=True)
    for feed in calls(several[: max(10 * rows, RECORDS // 4)], rows):
        cache.hold(feed.first_row, len(feed.behind), feed.length)
    return cache


def most(fits: Callable[[int], bool]) -> int:
    """The largest number that fits, if every smaller one does."""
    low, high = 0, 1
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def rows_in_a_gigabyte(name: str, records: Sequence[Lengths], capacity: int) -> dict[str, object]:
    """What the result file says of an input and a capacity."""
    slots = aligned(capacity + 1)
    before = (
        GIGABYTE
        // KVCache(
            SPEC.layers, 1, SPEC.kv_heads, slots, SPEC.head_size, dtype=torch.float32, device=torch.device("meta")
        ).nbytes
    )
    after = most(lambda rows: used(records, rows, slots, "meta").peak <= GIGABYTE)
    started, cache = time.perf_counter(), used(records, after, slots, "cpu")
    found = {
        "input": name,
        "capacity": capacity,
        "mean_tokens": round(sum(map(sum, records)) / len(records)),
        "longest_tokens": max(map(sum, records)),
        "rows_before": before,
        "rows_after": after,
        "peak_bytes": cache.peak,
        "grown_or_shrunk": cache.moves,
        "seconds_of_that": round(cache.seconds, 2),
    }
    click.echo(f"{found} in {time.perf_counter() - started:.0f} s", err=True)
    return found


def timed(records: Sequence[Lengths]) -> dict[str, object]:
    """The seconds of growing and of all calls, while a model of random weights decodes in PyTorch."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(buffers, "KVCache", MeasuredCache):
        LlamaForCausalLM(CONFIG).save_pretrained(folder)
        engine = TorchEngine(Path(folder), SPEC, rows=TIMED_ROWS, capacity=aligned(CAPACITIES[0] + 1))
    cache, started, count = engine.cache, time.perf_counter(), 0
    assert isinstance(cache, MeasuredCache)
    for feed in calls(records, TIMED_ROWS):
        engine.forward(_call(feed))
        count += 1
    seconds = time.perf_counter() - started
    return {
        "rows": TIMED_ROWS,
        "records": len(records),
        "calls": count,
        "seconds": round(seconds, 1),
        "grown_or_shrunk": cache.moves,
        "seconds_of_that": round(cache.seconds, 3),
        "share": round(cache.seconds / seconds, 4),
    }


def _call(feed: Feed) -> Call:
    rows, behind_B, column_T = len(feed.behind), torch.tensor(feed.behind), torch.arange(feed.tokens)
    return Call(
        input_ids_BT=torch.zeros((rows, feed.tokens), dtype=torch.int64),
        position_ids_BT=behind_B[:, None] + column_T,
        attention_mask_B1TL=block_mask(behind_B, triangle(feed.tokens, torch.device("cpu")), feed.length),
        write_index_B=behind_B,
        logit_index_BM=torch.zeros((rows, 1), dtype=torch.int64),
        first_row=feed.first_row,
    )


@click.command()
@click.option("--input", "names", multiple=True, type=click.Choice(INPUTS), default=INPUTS, show_default=True)
@click.option("--capacity", "capacities", multiple=True, type=int, default=CAPACITIES, show_default=True)
@click.option("--records", default=TIMED_RECORDS, show_default=True, help="Of the mixture, that PyTorch decodes.")
@click.option("--output", type=click.Path(path_type=Path), default=Path(__file__).parent / "results" / "cache.json")
def main(names: tuple[str, ...], capacities: tuple[int, ...], records: int, output: Path) -> None:
    """Measure, and write the result file."""
    inputs = {"examples": examples(), "short": made_up(0.0), "mixture": made_up(0.1)}
    rows = [rows_in_a_gigabyte(name, inputs[name], capacity) for name in names for capacity in capacities]
    growing = timed(inputs["mixture"][:records])
    click.echo(f"{growing}", err=True)
    output.write_text(json.dumps(machine() | {"rows_in_a_gigabyte": rows, "growing": growing}, indent=1) + "\n")


if __name__ == "__main__":
    main()
