"""What readers of SpecTr (arXiv 2310.15141) ask for beyond its tables: experiments and checks, each a part of its own.

    python benchmarks/readers.py build/demo/bundle            # all parts, some twelve minutes
    python benchmarks/readers.py --part odd --part blocks     # some of them; what others measured is kept
    python benchmarks/readers.py build/demo/bundle --small --output build/readers.json

    bernoulli   exact acceptance against the number of drafts, for laws of two tokens
    blocks      tokens per round of the small pair against the number of paths, for every rule that takes paths
    quality     the same when the draft is blended with the target, or with a law that knows nothing of the text
    sizes       the same for drafts of other sizes, and the speed that a model of costs makes of it; needs the bundle
    selection   time of a selection up to a vocabulary of 256,000, and the power of the vocabulary with which it grows
    odd         drafts that are as wrong as can be: what is accepted, and whether the text keeps the target's law

Drafts of other sizes are trained into build/readers when they are absent, which takes a third of the time. The figure
needs matplotlib.
"""

# B rows, S rounds, V vocabulary.
from __future__ import annotations

import dataclasses
import json
import os
import tempfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import click
import numpy as np
import selection
import torch
from acceptance import DRAFTS, bernoulli, curve
from figures.readers import draw
from machine import machine
from papers import readers_odd
from papers.readers_drafts import FULL as LESSONS
from papers.readers_drafts import SMALL, Lessons, costs, trained
from papers.simulated import EXAMPLES, Blend, SimulatedPair, mean_and_error, tokens_per_round

from spectr_select import RULES, DraftTree

ROOT = Path(__file__).parent.parent
PAIRS = ((Fraction(3, 4), Fraction(1, 4)), (Fraction(5, 9), Fraction(1, 3)), (Fraction(9, 10), Fraction(1, 10)))
COMPARED = ("kseq", "otm", "rrs", "optimal")
LENGTH, PATHS = 4, (1, 2, 4, 8)
SINGLE, FOUR = DraftTree.paths(1, LENGTH), DraftTree.paths(4, LENGTH)
QUALITY = ("kseq", "otm", "race")  # with four paths, beside single
ALONE = Blend()
BLENDS = (
    *(Blend(weight, "target") for weight in (0.75, 0.5, 0.25)),
    ALONE,
    *(Blend(weight, "unigram") for weight in (0.25, 0.5, 0.75, 1.0)),
)
OWN = "the pair's own"
CELL = selection.Cell(vocabulary=256_000, rows=8, drafts=4, length=LENGTH)


@dataclasses.dataclass(frozen=True, slots=True)
class Scale:
    """How much is measured.

    Attributes:
        contexts: Of the small pair.
        turns: How often every context is drawn from for part blocks; for others it is once.
        paths: Numbers of paths.
        blends: Qualities of the draft.
        lessons: How drafts of other sizes are trained.
        prompts: Decoded to time calls.
        repeats: Of timing calls.
        vocabularies: Of which selection is timed.
        seconds: For the repeats of a rule's selection.
        rounds: Sampled with each wrong draft.
    """

    contexts: int = 360
    turns: int = 2
    paths: tuple[int, ...] = PATHS
    blends: tuple[Blend, ...] = BLENDS
    lessons: Lessons = LESSONS
    prompts: int = 2
    repeats: int = 5
    vocabularies: tuple[int, ...] = (10_000, 32_000, 64_000, 128_000, 256_000)
    seconds: float = 0.5
    rounds: int = 24_000


FEW = Scale(
    contexts=8, turns=1, paths=(1, 2), blends=(ALONE, Blend(1.0, "unigram")), lessons=SMALL, prompts=1, repeats=1,
    vocabularies=(1000, 2000), seconds=0.02, rounds=500,
)  # fmt: skip


def measure_bernoulli() -> dict[str, Any]:
    """Exact acceptance on laws of two tokens, and how far the optimum is from ``min(1, 2 - a - (1 - b)^k)``."""
    families, gaps = [], []
    for one, other in PAIRS:
        laws = bernoulli(one, other)
        curves = {rule: {k: float(alpha_B) for k, alpha_B in curve(rule, laws).items()} for rule in COMPARED}
        gaps += [abs(alpha - optimum(one, other, k)) for k, alpha in curves["optimal"].items()]
        families.append({
            "a": str(one), "b": str(other),
            "curves": {rule: [round(alpha, 6) for alpha in found.values()] for rule, found in curves.items()},
        })  # fmt: skip
    return {"drafts": DRAFTS, "families": families, "largest_difference": float(f"{max(gaps):.1e}")}


def optimum(a: Fraction, b: Fraction, k: int) -> float:
    """The most that k independent drafts of (1 - b, b) can have accepted by (1 - a, a), if a is at least b."""
    return float(min(1, 2 - a - (1 - b) ** k))


def measure_blocks(scale: Scale) -> dict[str, Any]:
    """Tokens per round of every rule, with standard errors, by number of paths."""
    pair, by_paths = SimulatedPair(contexts=scale.contexts), {}
    for paths in scale.paths:
        by_paths[paths] = tokens(pair, DraftTree.paths(paths, LENGTH), tuple(RULES), ALONE, scale.turns)
    return {"contexts": len(pair.context_IC), "turns": scale.turns, "length": LENGTH, "by_paths": by_paths}


def tokens(
    pair: SimulatedPair, tree: DraftTree, rules: tuple[str, ...], blend: Blend, turns: int = 1
) -> dict[str, tuple[float, float]]:
    """Tokens per round with their standard error, which is that of the contexts' means: their rounds are alike."""
    found = tokens_per_round(pair, tree, rules, blend=blend, turns=turns)
    return {rule: mean_and_error(count_S.view(turns, -1).mean(0)) for rule, count_S in found.items()}


def measure_quality(scale: Scale) -> dict[str, Any]:
    """Tokens per round by the quality of the draft."""
    pair = SimulatedPair(contexts=scale.contexts)
    lines = [dataclasses.asdict(blend) | facts(pair, blend) for blend in scale.blends]
    return {"contexts": len(pair.context_IC), "turns": 1, "length": LENGTH, "lines": lines}


def facts(pair: SimulatedPair, blend: Blend = ALONE) -> dict[str, Any]:
    """How far a draft is from the target behind the contexts, and what rules make of it."""
    rounds = pair.rounds(DraftTree.chain(1), "single", blend=blend)
    apart = [(drawn.target_BNV[:, 0] - drawn.draft_BPV[:, 0]).abs().sum(1) / 2 for drawn in rounds]
    found = tokens(pair, SINGLE, ("single",), blend) | tokens(pair, FOUR, QUALITY, blend)
    distance, error = mean_and_error(torch.cat(apart))
    return {"total_variation": distance, "error": error, "tokens_per_round": found}


def measure_sizes(scale: Scale, bundle: Path) -> dict[str, Any]:
    """Tokens per round and modelled speed of drafts of other sizes."""
    drafts = trained(ROOT / "build" / "readers", scale.lessons)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        cost = costs(bundle, drafts, scale.prompts, scale.repeats)
    cost[OWN] = cost["128x2"]
    lines = []
    for name, path in {**drafts, OWN: EXAMPLES / "demo_pair" / "draft"}.items():
        pair = SimulatedPair(draft=path, contexts=scale.contexts)
        found = facts(pair)
        shares = {"timed": cost[name]["timed"][0], "weights": cost[name]["weights"]}
        speeds = {
            kind: {rule: round(speed(mean, share), 4) for rule, (mean, _) in found["tokens_per_round"].items()}
            for kind, share in shares.items()
        }
        lines.append({"draft": name, **found, "cost": cost[name], "speed": speeds})
    head = {"contexts": len(pair.context_IC), "turns": 1, "length": LENGTH}
    return head | {"lessons": dataclasses.asdict(scale.lessons), "target": cost["target"], "lines": lines}


def speed(tokens: float, share: float) -> float:
    """Tokens for the time of a target's call, if a draft's call takes this share of it and nothing else takes time."""
    return tokens / (1 + LENGTH * share)


def measure_selection(scale: Scale) -> dict[str, Any]:
    """Time of a selection by every rule over vocabularies, and the power with which it grows."""
    lines = []
    for size in scale.vocabularies:
        for drafts in (1, CELL.drafts):
            cell = dataclasses.replace(CELL, vocabulary=size, drafts=drafts)
            lines += selection.measure(cell, cell.rules, scale.seconds, repeats=15)
    powers = {}
    for rule in RULES:
        mine = [one for one in lines if one["rule"] == rule]
        powers[rule] = power([one["V"] for one in mine], [one["select_ms"] for one in mine])
    return {"rows": CELL.rows, "paths": CELL.drafts, "length": CELL.length, "lines": lines, "powers": powers}


def power(sizes: list[int], times: list[float]) -> dict[str, float]:
    """The power of V that fits all times best, and that between the two largest sizes."""
    fitted = np.polyfit(np.log(sizes), np.log(times), 1)[0]
    last = np.log(times[-1] / times[-2]) / np.log(sizes[-1] / sizes[-2])
    return {"fitted": round(float(fitted), 3), "last": round(float(last), 3)}


def measure(part: str, scale: Scale, bundle: Path | None) -> dict[str, Any]:
    """Measure a part."""
    if part == "sizes":
        if bundle is None:
            raise click.UsageError("Part sizes times calls of a bundle: give one, or name other parts with --part.")
        return measure_sizes(scale, bundle)
    parts = {
        "bernoulli": measure_bernoulli,
        "blocks": lambda: measure_blocks(scale),
        "quality": lambda: measure_quality(scale),
        "selection": lambda: measure_selection(scale),
        "odd": lambda: readers_odd.measure(scale.rounds),
    }
    return parts[part]()


PARTS = ("bernoulli", "blocks", "quality", "sizes", "selection", "odd")


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--part", "parts", multiple=True, type=click.Choice(PARTS), default=PARTS, help="What is measured.")
@click.option("--small", is_flag=True, help="Tiny sizes: whether it all runs.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=ROOT / "benchmarks" / "results" / "readers.json",
    help="Result file; the figure is put beside it.",
)
def main(bundle: Path | None, parts: tuple[str, ...], small: bool, output: Path) -> None:
    """Measure the parts, write the result file and draw the figure."""
    torch.set_num_threads(1)
    kept: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    for part in parts:
        started = time.monotonic()
        found = measure(part, FEW if small else Scale(), bundle)
        kept[part] = machine() | {"seconds": round(time.monotonic() - started), **found}
        click.echo(f"{part}: {kept[part]['seconds']} s")
        output.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    draw(json.loads(output.read_text(encoding="utf-8")), output.with_suffix(".svg"))


if __name__ == "__main__":
    main()
