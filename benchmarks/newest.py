"""The newest rules, judged: what each accepts, how far the most that is possible is, and what it takes.

    OMP_NUM_THREADS=1 python benchmarks/newest.py                                     # some 20 minutes
    OMP_NUM_THREADS=1 python benchmarks/newest.py --small --output /tmp/newest.json   # half a minute

Three parts. `exact`: expected tokens of a round of two paths of two drafts, enumerated over random models of four
tokens, with the distance between the law of the text and the target's, and with the most that any lossless rule could
have of the same drafts: a linear program over all drafts, accepted prefixes and next tokens. `pair`: tokens per round
of the small demo pair, sampled, with milliseconds of selection for each row. `delayed`: the same over trees that begin
with a stem, at equal drafts and at equal depth, which is the number of passes of the draft. Rules that draw alike see
the same drafts, so their differences are those of single rounds.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

import click
import numpy as np
import torch
from machine import machine
from papers.candidates import CANDIDATES, candidates
from papers.simulated import Blend, SimulatedPair, drawn_alike, mean_and_error
from scipy.optimize import linprog
from scipy.sparse import coo_array

from spectr_select import RULES, DraftTree
from spectr_select.exact.enumeration import (
    drawn_trees,
    expected_lengths,
    sequence_laws,
    text_codes,
    text_laws,
)

# I pairs of models, N nodes, R drawn trees, S rounds or texts, V vocabulary.
RESULT = Path(__file__).parent / "results" / "newest.json"
MODELS, VOCABULARY, SHARPNESS = 8, 4, 1.5
EXACT_TREE, ONE_TOKEN = DraftTree.paths(2, 2), DraftTree.paths(2, 1)
EXACT_RULES = ("rrs", "kseq", "otm", "gbv", "otm-block", "rrsw", "traversal", "greedy", *CANDIDATES)
DRAWINGS = {"iid": "otm-block", "without-replacement": "traversal", "top": "univer"}
SITUATIONS = {
    "as it is": (1.0, Blend()),
    "a worse draft": (1.0, Blend(0.4, "unigram")),
    "temperature 0.6": (0.6, Blend()),
}
PAIR_RULES = ("rrs", "kseq", "gbv", "otm", "otm-block", "rrsw", "traversal", "greedy", "univer", "race")
PATHS, LENGTH = (2, 4, 8), 4
DELAYED_RULES = ("rrs", "kseq", "otm", "otm-block", "traversal")
DELAYED = {
    "12 drafts": {0: (4, 1, 1), 4: (1, 1, 1, 1, 4, 1), 8: (1,) * 8 + (4,), 12: (1,) * 12},
    "6 passes": {stem: (1,) * stem + (4,) + (1,) * (5 - stem) for stem in range(6)},
}
ATTEMPTS = (("highs-ds", {}), ("highs-ipm", {}), ("highs-ds", {"presolve": False}))


def random_models(count: int, depth: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Laws of targets and drafts after every text, from normal logits of a fixed scale; tables [I, S, V] by length."""
    generator = torch.Generator().manual_seed(0)
    tables = [
        [
            (SHARPNESS * torch.randn((count, VOCABULARY**length, VOCABULARY), generator=generator).double()).softmax(2)
            for length in range(depth + extra)
        ]
        for extra in (1, 0)
    ]
    return tables[0], tables[1]


def ceiling(rule: str, tree: DraftTree, targets: list[torch.Tensor], drafts: list[torch.Tensor]) -> float:
    """The most expected tokens of a round that any lossless rule can have of the drafts that a rule draws.

    Args:
        rule: The rule.
        tree: The topology.
        targets: The laws of one target after every text, in the form of ``sequence_laws``.
        drafts: Those of its draft.
    """
    tokens_RN, weight_R, _ = drawn_trees(RULES[rule], tree, drafts, 1)
    vocabulary = targets[0].shape[2]
    code_RN = text_codes(tree, tokens_RN, vocabulary)
    spelt: dict[frozenset[tuple[int, int]], float] = {}
    for code_N, weight in zip(code_RN.tolist(), weight_R.tolist(), strict=True):
        texts = frozenset(zip(tree.depths, code_N, strict=True))
        spelt[texts] = spelt.get(texts, 0.0) + weight
    return _program(spelt, tree.depth, [table_ISV[0].numpy() for table_ISV in targets])


def _program(spelt: dict[frozenset[tuple[int, int]], float], depth: int, laws: list[np.ndarray]) -> float:
    """Solve for the mass of every (set of drafted texts, accepted text, next token).

    A set of texts has a row for its mass. A text z has a row for the mass that completes it: what ends a round there,
    and what the target brings from the text before. At full length that is the target's own mass.
    """
    vocabulary = laws[0].shape[1]
    first = np.cumsum([len(spelt), *(vocabulary**length for length in range(1, depth + 2))])
    entries: list[tuple[int, int, float]] = []
    gains: list[float] = []
    for row, texts in enumerate(spelt):
        for length, code in texts:
            for token in range(vocabulary):
                after = code * vocabulary + token
                # A drafted text that follows would be accepted too: that is never worse.
                if (length + 1, after) not in texts:
                    entries += [(row, len(gains), 1.0), (int(first[length]) + after, len(gains), 1.0)]
                    gains.append(1.0 + length)
    for length in range(1, depth + 1):
        for code in range(vocabulary**length):
            entries.append((int(first[length - 1]) + code, len(gains), -1.0))
            for token in range(vocabulary):
                row = int(first[length]) + code * vocabulary + token
                entries.append((row, len(gains), float(laws[length][code, token])))
            gains.append(0.0)
    whole = np.ones(1)
    for law in laws:
        whole = (whole[:, None] * law).reshape(-1)
    right = np.concatenate([list(spelt.values()), np.zeros(first[depth] - len(spelt)), whole])
    rows, columns, values = zip(*entries, strict=True)
    matrix = coo_array((values, (rows, columns)), shape=(len(right), len(gains))).tocsr()
    for method, options in ATTEMPTS:
        found = linprog(-np.array(gains), A_eq=matrix, b_eq=right, method=method, options=options)
        if found.status == 0:
            return -float(found.fun)
    raise RuntimeError(f"The linear program was not solved: {found.message}")


def distance(rule: str, tree: DraftTree, targets: list[torch.Tensor], drafts: list[torch.Tensor]) -> float:
    """The largest total variation between the law of a text and the target's, of all pairs of models."""
    apart_I = (sequence_laws(rule, tree, targets, drafts) - text_laws(targets)).abs().flatten(1).sum(1) / 2
    return float(f"{float(apart_I.max()):.2g}")


def exact(models: int) -> dict[str, Any]:
    """Expected tokens of every rule, the distance of its text from the target's, and the ceilings of the drawings."""
    targets, drafts = random_models(models, EXACT_TREE.depth)
    rules = {
        rule: {
            "drawing": RULES[rule].drawing,
            "tokens": round(float(expected_lengths(rule, EXACT_TREE, targets, drafts).mean()), 4),
            "distance": distance(rule, EXACT_TREE, targets, drafts),
            "one_token": distance(rule, ONE_TOKEN, targets[:2], drafts[:1]),
        }
        for rule in EXACT_RULES
    }
    tables = [([one[i : i + 1] for one in targets], [one[i : i + 1] for one in drafts]) for i in range(models)]
    ceilings = {
        drawing: round(float(np.mean([ceiling(rule, EXACT_TREE, *pair) for pair in tables])), 4)
        for drawing, rule in DRAWINGS.items()
    }
    return {"models": models, "rules": rules, "ceilings": ceilings}


def sampled(
    pair: SimulatedPair, tree: DraftTree, rules: tuple[str, ...], temperature: float, blend: Blend, turns: int
) -> dict[str, Any]:
    """Tokens per round of every rule that takes the tree, with their standard error and milliseconds of a row."""
    counts: dict[str, list[torch.Tensor]] = {}
    times: dict[str, list[float]] = {}
    alike = drawn_alike(tree, rules)
    for some in alike:
        for drawn in pair.rounds(tree, some[0], temperature, blend, turns):
            for rule in some:
                started = time.perf_counter()
                chosen = drawn.select(rule)
                times.setdefault(rule, []).append(1e3 * (time.perf_counter() - started) / len(chosen.count_B))
                counts.setdefault(rule, []).append(1 + chosen.count_B.double())
    found = {}
    for rule in (rule for rule in rules if rule in counts):
        tokens, error = mean_and_error(torch.cat(counts[rule]))
        found[rule] = {"tokens": tokens, "error": error, "ms": round(median(times[rule]), 3)}
    if "otm-block" in counts:  # the others that draw alike saw the same drafts
        for rule in next(some for some in alike if "otm-block" in some):
            less, error = mean_and_error(torch.cat(counts["otm-block"]) - torch.cat(counts[rule]))
            found[rule] |= {"less": less, "less_error": error}
    return found


@click.command()
@click.option("--small", is_flag=True, help="Two models and few rounds, for a look.")
@click.option("--contexts", default=256, show_default=True, help="Contexts of the pair.")
@click.option("--turns", default=4, show_default=True, help="How often each is drawn from.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT)
def main(small: bool, contexts: int, turns: int, output: Path) -> None:
    """Measure and write the result file."""
    torch.set_num_threads(1)
    contexts, turns = (16, 1) if small else (contexts, turns)
    situations = dict(list(SITUATIONS.items())[: 1 if small else None])
    pair = SimulatedPair(contexts=contexts)
    result: dict[str, Any] = machine() | {"rounds": contexts * turns, "length": LENGTH, "pair": [], "delayed": []}
    with candidates():
        result["exact"] = exact(2 if small else MODELS)
        click.echo(json.dumps(result["exact"]))
        for situation, (temperature, blend) in situations.items():
            for paths in PATHS[: 1 if small else None]:
                tree = DraftTree.paths(paths, LENGTH)
                rules = sampled(pair, tree, PAIR_RULES, temperature, blend, turns)
                result["pair"].append({"situation": situation, "paths": paths, "rules": rules})
                click.echo(f"{situation}, {paths} paths: " + ", ".join(f"{r} {x['tokens']}" for r, x in rules.items()))
            for what, stems in DELAYED.items() if situation != "temperature 0.6" else ():
                for stem, counts in stems.items():
                    tree = DraftTree.branching(counts)
                    rules = sampled(pair, tree, DELAYED_RULES, temperature, blend, turns)
                    line = {"situation": situation, "equal": what, "stem": stem, "depth": tree.depth}
                    result["delayed"].append(line | {"drafts": tree.drafts, "rules": rules})
                    click.echo(f"{line}: " + ", ".join(f"{rule} {one['tokens']}" for rule, one in rules.items()))
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
