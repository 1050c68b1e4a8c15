"""SpecTr's block efficiencies beside those of K-SEQ with a draft of like quality.

The paper's single draft of eight tokens has a block efficiency of 2.9, and that of the demo's pair is larger. Here the
draft is made worse until a single draft has the paper's: the more its law is blended with another one, the worse it is.
How far is found by bisection over rounds of the same noise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from headline_model import bisected
from simulated import Blend, SimulatedPair, mean_and_error, tokens_per_round

from spectr_select import DraftTree

SINGLE, MULTIPLE = 2.9, 4.0  # the paper's block efficiencies, K = 1 and K = 8, L = 8
LENGTH, DRAFTS = 8, (1, 2, 4, 8)
STEPS = 7  # of the bisection, which leave less than the standard error
# For each way to a worse draft, the interval that is searched, and the temperature and blend at a place of it.
WAYS: dict[str, tuple[float, float, Callable[[float], tuple[float, Blend]]]] = {
    "blended": (0.0, 1.0, lambda weight: (1.0, Blend(weight, "unigram"))),
}


def like_quality(contexts: int, turns: int) -> dict[str, Any]:
    """Return K-SEQ's block efficiency by number of drafts, at the quality of the paper's draft, for each way to it.

    Args:
        contexts: Contexts that rounds begin behind.
        turns: How often each is drawn from.
    """
    pair = SimulatedPair(contexts=contexts)
    ways = {name: at_quality(pair, name, turns) for name in WAYS}
    return {"contexts": contexts, "turns": turns, "length": LENGTH, "wanted": SINGLE, "ways": ways}


def at_quality(pair: SimulatedPair, name: str, turns: int) -> dict[str, Any]:
    """Search the place at which a single draft has the paper's block efficiency, and measure K-SEQ there."""
    low, high, at = WAYS[name]

    def tokens(rule: str, drafts: int, place: float) -> tuple[float, float]:
        temperature, blend = at(place)
        tree = DraftTree.paths(drafts, LENGTH)
        return mean_and_error(tokens_per_round(pair, tree, [rule], temperature, blend, turns)[rule])

    place = bisected(lambda place: tokens("single", 1, place)[0] - SINGLE, low, high, STEPS)
    single, error = tokens("single", 1, place)
    click.echo(f"{name}: {place:.4f}, single {single}", err=True)
    lines = []
    for drafts in DRAFTS:
        own, own_error = tokens("kseq", drafts, place)
        ratio = own / single
        ratio_error = ratio * ((own_error / own) ** 2 + (error / single) ** 2) ** 0.5
        lines.append(
            {
                "drafts": drafts, "block_efficiency": own, "standard_error": own_error,
                "to_single": round(ratio, 3), "to_single_standard_error": round(ratio_error, 3),
            }
        )  # fmt: skip
        click.echo(f"{name}: {lines[-1]}", err=True)
    return {"at": round(place, 4), "single": single, "standard_error": error, "kseq": lines}
