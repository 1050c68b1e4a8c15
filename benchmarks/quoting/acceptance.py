"""How much every rule accepts: ``acceptance.py``."""

from __future__ import annotations

from typing import Any

from quoting.words import measured, numeral, table

TITLE = "Zipf, V = 200, noise 1"
RULES = ("kseq", "otm", "greedy", "race", "gls", "optimal", "optimal-swor")
HEADS = ("drafts k", *(f"`{rule}`" for rule in RULES[:-2]), "optimum, independent", "optimum, distinct")
DRAFTS = (1, 2, 4, 8)


def zipf(result: dict[str, Any]) -> str:
    """A table of one family of laws, and how far rules of independent drafts stay behind the optimum in all."""
    (curves,) = (laws["curves"] for laws in result["laws"] if laws["title"] == TITLE)
    rows = []
    for drafts in DRAFTS:
        found = [dict(zip(curves[rule]["k"], curves[rule]["alpha"], strict=True))[drafts] for rule in RULES]
        rows.append([str(drafts), *(f"{alpha:.5f}".removeprefix("0") for alpha in found)])
    return (
        "For a Zipf law of 200 tokens, with a disturbed copy as draft "
        f"([benchmarks/acceptance.py](../benchmarks/acceptance.py), {measured(result)}):\n\n{table(HEADS, rows)}\n\n"
        f"Over the {numeral(len(result['laws']))} families of laws of the figure and up to 16 drafts, `otm` stays at "
        f"most {behind(result, 'otm'):.4f} below the optimum for independent drafts and `kseq` "
        f"{behind(result, 'kseq'):.4f}."
    )


def behind(result: dict[str, Any], rule: str) -> float:
    """The most that a rule stays below the optimum."""
    return max(
        best - own
        for laws in result["laws"]
        for best, own in zip(laws["curves"]["optimal"]["alpha"], laws["curves"][rule]["alpha"], strict=True)
    )


QUOTES = {"acceptance": ("acceptance.json", zipf)}
