"""How much of the best fixed race's speed `--plan auto` keeps: its planner over recorded costs of rounds.

    python benchmarks/regret.py build/demo/bundle --name "padded, float32"
    python benchmarks/regret.py --again              # over the costs in the result file, without any model

The costs of a round of every race are measured with a bundle, at one row and at eight. Then the planner chooses among
them, as it would, over rounds that are drawn: how many drafts are accepted, and how long a round takes, which is its
cost times a factor of some per cent, with one round in fifty three times as long. In uneven weather the machine also
turns slower by 1.8, and back, once in fifty rounds. A cell is the share of the tokens per second of the race that is
best by the true costs: the mean over twenty runs, and the least one. Each run learns from nothing.
"""

from __future__ import annotations

import json
import math
import random
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from machine import machine

from spectr_runtime import Bundle, Plan
from spectr_runtime.planning.costs import Costs, Spent
from spectr_runtime.planning.measuring import add_rounds
from spectr_runtime.planning.planner import RACES, AutoPlanner
from spectr_runtime.speculation.pair import Pair

RESULT = Path(__file__).parent / "results" / "regret.json"
ROWS, LENGTH, TURNS = (1, 8), 96, 9
ACCEPTANCE, ROUNDS, RUNS = (0.55, 0.7, 0.85), (80, 400), 20
NOISE, SPIKE, SPIKES, SLOWER, TURN = 0.08, 3.0, 0.02, 1.8, 0.02

# For each plan, the seconds of a round, of its drafting and of the target's pass.
Recorded = Mapping[Plan, Spent]


class Keeper(Costs):
    """Costs that keep every round."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[Plan, list[Spent]] = {}

    def observe(self, plan: Plan, rows: int, spent: Spent) -> None:
        """Keep a round."""
        self.kept.setdefault(plan, []).append(spent)


def record(bundle: Bundle, rows: int) -> dict[Plan, Spent]:
    """Measure a round of every race; medians."""
    pair = Pair(bundle, RACES, backend="onnxruntime", device="cpu", rows=rows)
    measured = run_rounds(pair, [*RACES] * TURNS, bundle.manifest.vocabulary.size, rows, LENGTH)
    return {
        plan: Spent(*(statistics.median(column) for column in zip(*rounds, strict=True)))
        for plan, rounds in measured.items()
    }


def run_rounds(pair: Pair, plans: Sequence[Plan], vocabulary: int, rows: int, length: int) -> dict[Plan, list[Spent]]:
    """Run a round of each of some plans in their order, behind texts of some length; all but the first of each plan."""
    keeper = Keeper()
    add_rounds(keeper, pair, plans, vocabulary, rows, length)
    return {plan: rounds[1:] for plan, rounds in keeper.kept.items()}


def first_rate(plan: Plan, rate: float) -> float:
    """The probability that one of the siblings at the root is accepted, as for races over Zipf laws."""
    return 1 - (1 - rate) * plan.drafts**-0.5


def expected(plan: Plan, rate: float) -> float:
    """Expected tokens of a round."""
    return 1 + first_rate(plan, rate) * sum(rate**depth for depth in range(plan.length)) if plan.drafts else 1.0


def accept(plan: Plan, rate: float, generator: random.Random) -> int:
    """Draw how many drafts a row accepts."""
    if not plan.drafts or generator.random() > first_rate(plan, rate):
        return 0
    count = 1
    while count < plan.length and generator.random() < rate:
        count += 1
    return count


def share(costs: Recorded, rows: int, rate: float, rounds: int, uneven: bool, seed: int) -> float:
    """Return the speed of one run as a share of the best race's."""
    generator, planner, slow = random.Random(seed), AutoPlanner(Costs()), False
    best = max(expected(plan, rate) / costs[plan].total for plan in RACES)
    tokens = seconds = 0.0
    for _ in range(rounds):
        slow ^= uneven and generator.random() < TURN
        plan = planner.choose(rows)
        factor = (SLOWER if slow else 1.0) * math.exp(generator.gauss(0, NOISE))
        factor *= SPIKE if generator.random() < SPIKES else 1.0
        spent = Spent(*(factor * part for part in costs[plan]))
        planner.observe(plan, rows, [accept(plan, rate, generator) for _ in range(rows)], spent)
        tokens += expected(plan, rate)
        seconds += costs[plan].total  # slow moments are not the planner's fault
    return tokens / seconds / best


def regrets(costs: Recorded, rows: int) -> list[dict[str, Any]]:
    """Every cell of these costs."""
    cells = []
    for rate in ACCEPTANCE:
        for rounds in ROUNDS:
            for uneven in (False, True):
                shares = [share(costs, rows, rate, rounds, uneven, seed) for seed in range(RUNS)]
                cell = {"acceptance": rate, "rounds": rounds, "uneven": uneven}
                cells.append(cell | {"mean": round(statistics.fmean(shares), 3), "least": round(min(shares), 3)})
    return cells


def to_json(costs: Recorded) -> dict[str, list[float]]:
    """Costs as JSON values, in milliseconds."""
    return {str(plan): [round(1e3 * seconds, 3) for seconds in spent] for plan, spent in costs.items()}


def from_json(value: Mapping[str, list[float]]) -> dict[Plan, Spent]:
    """Read what ``to_json`` wrote."""
    return {plan: Spent(*(part / 1e3 for part in value[str(plan)])) for plan in RACES}


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True), required=False)
@click.option("--name", help="Of the models, in the result file.")
@click.option("--again", is_flag=True, help="Take the costs of the result file.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT)
def main(bundle: Path | None, name: str | None, again: bool, output: Path) -> None:
    """Measure costs or take those of the result file, let the planner choose, and write the result file."""
    kept: dict[str, Any] = json.loads(output.read_text(encoding="utf-8")) if output.exists() else {}
    if bundle is not None and name:
        opened = Bundle.open(bundle)
        measured = {str(rows): {"milliseconds": to_json(record(opened, rows))} for rows in ROWS}
        kept[name] = machine() | {"rows": measured}
    elif not again:
        raise click.UsageError("Give a bundle and --name, or --again.")
    for title in kept if again else [str(name)]:
        for rows, facts in kept[title]["rows"].items():
            facts["cells"] = regrets(from_json(facts["milliseconds"]), int(rows))
            means = [cell["mean"] for cell in facts["cells"]]
            click.echo(f"{title}, {rows} rows: {statistics.fmean(means):.3f}, from {min(means)} to {max(means)}")
    output.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
