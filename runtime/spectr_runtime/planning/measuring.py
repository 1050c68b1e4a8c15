"""Rounds that are run for their costs alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import torch

from spectr_runtime.bundle import Manifest
from spectr_runtime.planning.costs import Costs
from spectr_runtime.reading.prefill import prefill
from spectr_runtime.rows.request import Request
from spectr_runtime.rows.row import Row
from spectr_runtime.rows.text.tokenizer import Tokenizer
from spectr_runtime.speculation.batching import Batching, Sizes
from spectr_runtime.speculation.launch import Launcher, open_recorder
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.timing import Timing
from spectr_runtime.speculation.turn import Turn, Turns

REPEATS = 3


def measure(pair: Pair, plans: Sequence[Plan], manifest: Manifest, rows: int) -> Costs:
    """Run rounds of some plans for their costs alone, behind texts of half of the bundle's capacity.

    Batches with all rows and with a single one are measured: only at its end does a run have fewer rows than the batch
    holds. The plans take turns, so that a slow moment of the machine hits all of them. The caches are overwritten.

    Args:
        pair: The models.
        plans: The plans to measure.
        manifest: The bundle's manifest, for capacity and vocabulary.
        rows: Number of rows of the batch.
    """
    costs, length = Costs(), max(manifest.limits.capacity // 2, 2)
    for count in sorted({1, rows}):
        add_rounds(costs, pair, [*plans] * (1 + REPEATS), manifest.vocabulary.size, count, length)
    return costs


@torch.inference_mode()
def add_rounds(costs: Costs, pair: Pair, plans: Sequence[Plan], vocabulary: int, rows: int, length: int) -> None:
    """Run one round of each of some plans and take note of it. The caches are overwritten.

    Args:
        costs: What is known so far; the rounds are added.
        pair: The models.
        plans: The plans of the rounds, in their order.
        vocabulary: Number of tokens that are written.
        rows: Number of rows of the batch, at most those of the caches.
        length: Tokens of the text that each row has so far, at least 2.
    """
    recorder = open_recorder(pair.device, pair, replays=None)
    launcher = Launcher(rows, vocabulary, pair.device, recorder)
    turns = Turns(launcher, Batching(vocabulary, headed=pair.head is not None), Timing(), ahead=False)
    batch = [_row(index, length, vocabulary) for index in range(rows)]
    sizes = Sizes(rows, pair.longest, padded=recorder is not None)

    def round_of(plan: Plan) -> Turn:
        turn = turns.issue(plan, (), pair, batch, sizes)
        assert turn is not None
        return turn

    for plan in plans:
        turn = round_of(plan)
        while not turn.telling:
            turn = round_of(plan)
        costs.observe(plan, rows, turn.spent)


@torch.inference_mode()
def add_reading(costs: Costs, pair: Pair, tokens: int, tokens_per_call: int) -> None:
    """Read a text into the first row of the caches, and take note of the time. It is overwritten.

    Args:
        costs: What is known so far; the reading is added.
        pair: The models.
        tokens: Tokens to read, fewer than a row has slots.
        tokens_per_call: The largest number of tokens that one call feeds to a row.
    """
    text, started = [[0] * (tokens + 1)], time.perf_counter()
    models = [pair.target] if pair.draft is None or pair.head is not None else [pair.draft, pair.target]
    for engine in models:
        prefill(engine, text, [0], 0, tokens_per_call, pair.device, pair.head)
        engine.cache.pieces[0][:1, :1, :1, :1, :1].tolist()  # a GPU is at work until this is known
    costs.observe_reading(tokens, time.perf_counter() - started)


def _row(index: int, length: int, vocabulary: int) -> Row:
    """Return a row that the caches are said to hold; nobody reads what it writes, so it needs no tokenizer."""
    prompt = tuple((index + place) % vocabulary for place in range(length))
    row = Row(Request(str(index), prompt), prompt, index, frozenset(), length, cast(Tokenizer, None))
    row.cached = {"target": length - 1, "draft": length - 2}  # as after a round that accepted nothing
    return row
