"""SpecTr's block efficiencies beside those of K-SEQ with a draft of like quality.

The paper's single draft of eight tokens has a block efficiency of 2.9, and that of the demo's pair is larger. Here the
draft is made worse in two ways until a single draft has the paper's: its law is blended with one that knows nothing of
the text, so that some drafts are wasted and others as good as before; or its temperature is raised, so that all laws
are flatter. How far is found by bisection over rounds of the same noise, which still vary with it: a token that another
law draws leads to another text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from papers.headline_model import bisected
from papers.simulated import Blend, SimulatedPair, mean_and_error, tokens_per_round
from spectr_select import DraftTree

SINGLE = 2.9  # the paper's block efficiency with K = 1, L = 8
LENGTH, DRAFTS = 8, (1, 2, 4, 8)
STEPS = 6  # of the bisection, which leave less than the standard error


def like_quality(contexts: int, turns: int) -> dict[str, Any]:
    """Return K-SEQ's block efficiency by number of drafts, at the quality of the paper's draft, for each way to it.

    Args:
        contexts: Contexts that rounds begin behind.
        turns: How often each is drawn from.
    """
    pair = SimulatedPair(contexts=contexts)

    def blended(weight: float) -> Blend:
        return Blend(weight, "unigram")

    def flattened(temperature: float) -> Blend:
        return Blend(flatter=temperature)

    ways = {
        "blended": at_quality(pair, blended, (0.0, 1.0), turns),
        "flattened": at_quality(pair, flattened, (1.0, 5.0), turns),
    }
    return {"contexts": contexts, "turns": turns, "length": LENGTH, "wanted": SINGLE, "ways": ways}


def at_quality(
    pair: SimulatedPair, worsen: Callable[[float], Blend], between: tuple[float, float], turns: int
) -> dict[str, Any]:
    """Search how far the draft is to be made worse for the paper's block efficiency, and measure K-SEQ there.

    Args:
        pair: The models.
        worsen: Makes the draft so much worse, and returns what its law is blended with.
        between: The interval that is searched.
        turns: How often every context is drawn from; with a single draft, which takes less time, twice as often.
    """

    def tokens(rule: str, drafts: int, place: float, turns: int = turns) -> tuple[float, float]:
        found = tokens_per_round(pair, DraftTree.paths(drafts, LENGTH), [rule], blend=worsen(place), turns=turns)
        return mean_and_error(found[rule])

    place = bisected(lambda place: tokens("single", 1, place, 2 * turns)[0] - SINGLE, *between, STEPS)
    single, error = tokens("single", 1, place, 2 * turns)
    lines = []
    for drafts in DRAFTS:
        own, own_error = tokens("kseq", drafts, place)
        ratio = own / single
        ratio_error = ratio * ((own_error / own) ** 2 + (error / single) ** 2) ** 0.5
        lines.append(
            {
                "drafts": drafts, "length": LENGTH, "block_efficiency": own, "standard_error": own_error,
                "to_single": round(ratio, 3), "to_single_standard_error": round(ratio_error, 3),
            }
        )  # fmt: skip
        click.echo(f"{worsen.__name__} {place:.4f}, single {single}: {lines[-1]}", err=True)
    return {"at": round(place, 4), "single": single, "standard_error": error, "kseq": lines}
