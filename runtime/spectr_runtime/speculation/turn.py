"""One turn of the batch: what its rows lack is read, and those that lack nothing then take part in a round."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import NamedTuple

from spectr_runtime.rows.row import Row
from spectr_runtime.speculation.batching import Batching
from spectr_runtime.speculation.offers import Offers
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import Plan
from spectr_runtime.speculation.reading import Reading
from spectr_runtime.speculation.round import Emitted, speculate
from spectr_runtime.speculation.timing import Spent, Timing


class Turn(NamedTuple):
    """What a turn did.

    Attributes:
        plan: The plan of its round.
        offers: What was given to the rows.
        lacking: For each row how many of its last tokens the cache of the draft lacks now; None if it was not fed.
        behind: The indices of rows that took no part in it, since they are still read.
        emitted: What it wrote.
        spent: How long the round took.
        read: What was read before it.
        seconds: How long both took.
    """

    plan: Plan
    offers: Offers
    lacking: Sequence[int | None]
    behind: set[int]
    emitted: Emitted
    spent: Spent
    read: Reading
    seconds: float


def take_turn(
    plan: Plan, offers: Offers, pair: Pair, batch: Sequence[Row | None], batching: Batching, timing: Timing
) -> Turn:
    """Bring the caches up to the rows' texts, and run one round.

    Args:
        plan: The plan of the round.
        offers: What is given to the rows.
        pair: The models.
        batch: The rows by their index in the caches, at least one; None for a free one.
        batching: Makes tensors of the rows.
        timing: Takes the seconds of the phases.
    """
    begun, before = time.perf_counter(), dataclasses.replace(pair.reading)
    with timing.measure("prefill"):
        behind = pair.catch_up(plan, batch)
    with timing.measure("host"):
        rows = batching.rows(batch, behind, plan, offers)
    started, draft, verify = time.perf_counter(), timing.draft, timing.verify
    source, (_, target) = pair.source(plan), pair.engines
    emitted = speculate(plan, source, target, rows, timing)
    with pair.waits():
        accepted = emitted.accepted_B.tolist()  # a GPU is at work until this is known
    now = time.perf_counter()
    spent = Spent(now - started, timing.draft - draft, timing.verify - verify)
    lacking = [source.lacking(count) for count in accepted]
    return Turn(plan, offers, lacking, behind, emitted, spent, pair.reading.since(before), now - begun)
