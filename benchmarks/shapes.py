"""What drafts of other shapes would gain over the races that `--plan auto` chooses from, by recorded costs of rounds.

    python benchmarks/shapes.py          # over the costs in results/regret.json, without any model

For some rates of acceptance, the expected tokens per second of the best race of the menu are set against those of any
chain, of any number of paths, and of the trees that expect most tokens for their number of drafts (Tunstall). A shape
costs what a pass over its nodes costs, between the recorded numbers of tokens and beyond them, and a call of the draft
for each of its levels. Siblings are accepted by the rank law of races over Zipf laws.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from machine import machine
from regret import RESULT as COSTS
from regret import Recorded, from_json

from spectr_runtime.planning.costs import Curve
from spectr_runtime.planning.planner import RACES
from spectr_select import DraftTree, best_tree, expected_tokens

RESULT = Path(__file__).parent / "results" / "shapes.json"
ACCEPTANCE = (0.5, 0.6, 0.7, 0.8, 0.9)
RANKS, LONGEST, MOST_PATHS, MOST_DRAFTS = 8, 16, 4, 32


def rank_law(rate: float) -> list[float]:
    """The probability that the sibling of each rank is the accepted one."""
    within = [0.0] + [1 - (1 - rate) * count**-0.5 for count in range(1, RANKS + 1)]
    return [after - before for before, after in itertools.pairwise(within)]


def seconds_of(costs: Recorded, rows: int) -> Callable[[DraftTree], float]:
    """Return what gives the seconds of a round of any shape."""
    verify = Curve({rows * plan.tree.size: costs[plan].verify for plan in RACES})
    draft = Curve({rows * plan.drafts: costs[plan].draft / plan.length for plan in RACES if plan.drafts})
    rest = Curve({rows * plan.tree.size: cost.total - cost.draft - cost.verify for plan, cost in costs.items()})

    def seconds(tree: DraftTree) -> float:
        levels = sum(draft.at(rows * len(level)) for level in tree.levels[1:])
        return levels + verify.at(rows * tree.size) + rest.at(rows * tree.size)

    return seconds


def compare(costs: Recorded, rows: int, rate: float) -> dict[str, Any]:
    """The best of each kind of shape, as a multiple of the best race of the menu."""
    law, seconds = rank_law(rate), seconds_of(costs, rows)

    def best(trees: Iterable[DraftTree]) -> tuple[float, DraftTree]:
        return max(((expected_tokens(law, tree) / seconds(tree), tree) for tree in trees), key=lambda pair: pair[0])

    menu, _ = best(plan.tree for plan in RACES)
    kinds = {
        "chain": [DraftTree.chain(length) for length in range(LONGEST + 1)],
        "paths": [DraftTree.paths(count, length) for count in range(1, MOST_PATHS + 1) for length in range(1, 9)],
        "tree": [best_tree(law, drafts) for drafts in range(MOST_DRAFTS + 1)],
    }
    found = {name: best(trees) for name, trees in kinds.items()}
    return {"acceptance": rate} | {
        name: {"gain": round(speed / menu, 3), "drafts": tree.drafts, "depth": tree.depth}
        for name, (speed, tree) in found.items()
    }


@click.command()
@click.option("--output", type=click.Path(path_type=Path), default=RESULT)
def main(output: Path) -> None:
    """Compare and write the result file."""
    recorded = json.loads(COSTS.read_text(encoding="utf-8"))
    result = {
        name: {
            rows: [compare(from_json(facts["milliseconds"]), int(rows), rate) for rate in ACCEPTANCE]
            for rows, facts in models["rows"].items()
        }
        for name, models in recorded.items()
    }
    output.write_text(json.dumps(machine() | {"gains": result}, indent=1) + "\n", encoding="utf-8")
    for name, by_rows in result.items():
        for rows, lines in by_rows.items():
            for line in lines:
                gains = "  ".join(f"{kind} {line[kind]['gain']}" for kind in ("chain", "paths", "tree"))
                click.echo(f"{name}, {rows} rows, acceptance {line['acceptance']}: {gains}")


if __name__ == "__main__":
    main()
