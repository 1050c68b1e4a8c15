"""How much every rule accepts: ``acceptance.py``."""

from __future__ import annotations

from typing import Any

from quoting.words import measured, numeral, table

TITLE = "Zipf, V = 200, noise 1"
RULES = ("kseq", "otm", "greedy", "rrsw", "race", "gls", "optimal", "optimal-swor")
HEADS = ("drafts k", *(f"`{rule}`" for rule in RULES[:-2]), "optimum, independent", "optimum, distinct")
DRAFTS = (1, 2, 4, 8)


def zipf(result: dict[str, Any]) -> str:
    """A table of one family of laws, and how far rules of independent drafts stay behind the optimum in all."""
    (curves,) = (laws["curves"] for laws in result["laws"] if laws["title"] == TITLE)
    rows = [(str(drafts), *(shown(curves[rule], drafts) for rule in RULES)) for drafts in DRAFTS]
    return (
        "For a Zipf law of 200 tokens, with a disturbed copy as draft "
        f"([benchmarks/acceptance.py](../benchmarks/acceptance.py), {measured(result)}):\n\n{table(HEADS, rows)}\n\n"
        f"Over the {numeral(len(result['laws']))} families of laws of the figure and up to 16 drafts, `otm` stays at "
        f"most {behind(result, 'otm'):.4f} below the optimum for independent drafts and `kseq` "
        f"{behind(result, 'kseq'):.4f}."
    )


def shown(curve: dict[str, Any], drafts: int) -> str:
    """The acceptance at a number of drafts: to five digits, or to three between two bounds, or nothing if not known."""
    if drafts not in curve["k"]:
        return ""
    place = curve["k"].index(drafts)
    least, most = (curve.get(bound, curve["alpha"])[place] for bound in ("lower", "upper"))
    alphas = [f"{least:.5f}"] if most - least < 1e-5 else [f"{least:.3f}", f"{most:.3f}"]
    return " to ".join(alpha.removeprefix("0") for alpha in alphas)


def behind(result: dict[str, Any], rule: str) -> float:
    """The most that a rule stays below the optimum."""
    return max(
        best - own
        for laws in result["laws"]
        for best, own in zip(laws["curves"]["optimal"]["alpha"], laws["curves"][rule]["alpha"], strict=True)
    )


QUOTES = {"acceptance": ("acceptance.json", zipf)}
