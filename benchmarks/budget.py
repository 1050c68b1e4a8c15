"""All rules at equal budget: which accepts most where, and which is fastest, beside the most that any rule can.

    OMP_NUM_THREADS=1 python benchmarks/budget.py            # some ten minutes
    OMP_NUM_THREADS=1 python benchmarks/budget.py --small --output /tmp/budget.json

Rounds of the demo's small pair (``papers/simulated.py``), over paths of many shapes, at several temperatures of the
draft as it is, and at temperature 1 with a better and a worse draft. All rules see the same contexts, those that draw
alike the same drafts, and differences are paired by context. Three questions, for every setting:

- one token, k drafts: the exact acceptance where it is known, else the share of rounds that accept a draft, beside the
  optimum for independent and for distinct drafts;
- tokens per round at the same shape, and at the same number of drafted tokens with the best shape of each rule;
- tokens per round over the cost of a round, on a CPU and on a GPU that its memory limits (``papers/budget_costs.py``).

The ceiling of tokens per round: the first i emitted tokens follow the target's law of i tokens, so for any set H of
such texts the chance that i drafts are accepted is at most 1 + t(H) - Pr(all paths in H). H are the texts whose ratio
t / d is at most c, with c chosen on one half of the rounds for the other half, and t(H) is the mean of that ratio over
drafts in H.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from figures.styles import COLOURS
from machine import machine
from papers.budget_costs import machines
from papers.simulated import Blend, Drawn, SimulatedPair, mean_and_error

from spectr_select import RULES, DraftTree, acceptance

# B rows, C thresholds, I contexts, K paths, L depths, S rounds, V vocabulary.
RESULT = Path(__file__).parent / "results" / "budget.json"
PATHS, LENGTHS, DRAFTS = (1, 2, 4, 8), (2, 4, 8), (4, 8, 16, 32)
LONGEST = {1: 32, 2: 16, 4: 8, 8: 8, 16: 2, 32: 1}
TURNS = {1: 4}  # of each context: a single path is drawn more often, since it costs little and varies most
BLOCKS = ("block", "gbv", "traversal", "otm-block")
# With one path these rules are other rules; gls is in law.
ALONE = {rule: "single" for rule in ("kseq", "rrs", "rrsw", "greedy", "otm")} | {"gbv": "block", "traversal": "block"}
ALONE |= {"otm-block": "block", "gls": "race"}
EXACT = {"kseq": 8, "rrs": 8, "rrsw": 2, "greedy": 8, "otm": 8}  # up to so many drafts
EVERY = 4  # of the contexts, those for which the optimum of distinct drafts is integrated
AT_ONCE = 32

AS_IS = Blend()
# Tokens per round behind every context, by rule, paths and length.
Counts = dict[tuple[str, int, int], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Setting:
    """A temperature and a quality of the draft."""

    temperature: float
    draft: str
    blend: Blend = AS_IS


SETTINGS = (
    *(Setting(temperature, "as it is") for temperature in (0.3, 0.6, 1.0, 1.5)),
    Setting(1.0, "better", Blend(0.5, "target")),
    Setting(1.0, "worse", Blend(0.5, "unigram")),
)


def lengths_of(paths: int, longest: int) -> list[int]:
    """The lengths that are looked at with so many paths."""
    wanted = {1, *LENGTHS, *(drafts // paths for drafts in DRAFTS)}
    return sorted(length for length in wanted if 1 <= length <= longest)


def count(pair: SimulatedPair, setting: Setting, paths: int, longest: int) -> tuple[Counts, dict[str, torch.Tensor]]:
    """Return the tokens of a round behind each context, and by drawing the ratios t / d of all rounds' paths.

    Returns:
        The mean over the rounds of a context, float64 [I] for each rule and shape, and float64 [S, K, L] for each kind
        of drawing, one turn of all contexts after the other.
    """
    tree, turns = DraftTree.paths(paths, longest), TURNS.get(paths, 1)
    counts, ratios = dict[tuple[str, int, int], list[torch.Tensor]](), dict[str, torch.Tensor]()
    rules = [rule for rule in RULES if (rule not in ALONE if paths == 1 else RULES[rule].trees != "chain")]
    for _, alike in itertools.groupby(sorted(rules, key=drawing), key=drawing):
        some, found = list(alike), []
        for drawn in pair.rounds(tree, some[0], setting.temperature, setting.blend, turns):
            found.append(drawn.ratios().view(-1, longest, paths).cumprod(1).transpose(1, 2))
            for rule in some:
                for length, tokens_B in tokens(drawn, rule, lengths_of(paths, longest)):
                    counts.setdefault((rule, paths, length), []).append(tokens_B)
        ratios.setdefault(RULES[some[0]].drawing, torch.cat(found))
    return {key: torch.cat(parts).view(turns, -1).mean(0) for key, parts in counts.items()}, ratios


def drawing(rule: str) -> str:
    """What rules share that draw alike; one token after another, with one path, all but races do."""
    return RULES[rule].draw.__qualname__ + RULES[rule].draw.__module__


def tokens(drawn: Drawn, rule: str, lengths: Sequence[int]) -> Iterator[tuple[int, torch.Tensor]]:
    """Yield the tokens of rounds with paths of each length: a rule that goes token by token has the same beginnings."""
    count_B = None if rule in BLOCKS else drawn.select(rule).count_B
    for length in lengths:
        found_B = drawn.shorter(length).select(rule).count_B if count_B is None else count_B.clamp(max=length)
        yield length, 1 + found_B.double()


def ceiling(fair_SKL: torch.Tensor, ratio_SKL: torch.Tensor) -> torch.Tensor:
    """Return a value for each round and depth whose mean bounds the chance that so many drafts are accepted [S, L].

    Args:
        fair_SKL: The ratios t / d of paths that were each drawn from the draft's law, behind the same contexts.
        ratio_SKL: Those of the rounds' paths, drawn in any way.
    """
    most_SL = ratio_SKL.amax(1)
    limit_C = torch.cat([torch.zeros(1), torch.logspace(-2, 2, 81)]).double()
    # t(H) - [all in H]
    cut_CSL = torch.stack([(fair_SKL * (fair_SKL <= c)).mean(1) - (most_SL <= c).double() for c in limit_C])
    even_S = torch.arange(cut_CSL.shape[1]) % 2 == 0
    bound_SL = torch.empty_like(cut_CSL[0])
    for half_S in (even_S, ~even_S):
        best_L = cut_CSL[:, ~half_S].mean(1).argmin(0)
        bound_SL[half_S] = 1 + cut_CSL[:, half_S].gather(0, best_L.expand(1, int(half_S.sum()), -1))[0]
    return bound_SL


def ranked(found: Mapping[str, torch.Tensor], shapes: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The best of some values behind the same contexts, and for each its mean and how far it is behind, with errors."""
    best = max(found, key=lambda name: float(found[name].mean()))
    rules: dict[str, Any] = {}
    for name, one_I in found.items():
        rules[name] = {"mean": mean_and_error(one_I), "behind": mean_and_error(found[best] - one_I)}
        if shapes:
            rules[name]["shape"] = shapes[name]
    return {"best": best, "rules": rules}


def with_paths(rule: str, paths: int) -> str:
    """The rule that a rule is with so many paths."""
    return ALONE.get(rule, rule) if paths == 1 else rule


def best_shapes(counts: Counts, worth: Mapping[tuple[int, int], Mapping[str, float]]) -> dict[str, Any]:
    """Each rule with its best shape, where tokens of a rule and shape are worth so much."""
    found, shapes = dict[str, torch.Tensor](), dict[str, str]()
    for rule in RULES:
        for (paths, length), factors in worth.items():
            one_I = counts.get((with_paths(rule, paths), paths, length))
            if one_I is None or rule not in factors:
                continue
            one_I = one_I * factors[rule]
            if rule not in found or one_I.mean() > found[rule].mean():
                found[rule], shapes[rule] = one_I, f"{paths}x{length}"
    return ranked(found, shapes)


def budgets(counts: Counts, longest: Mapping[int, int]) -> dict[str, Any]:
    """The best shapes of as many drafted tokens."""
    found = {}
    for drafts in (drafts for drafts in DRAFTS if drafts <= longest[1]):
        shapes = [(paths, drafts // paths) for paths, most in longest.items() if 1 <= drafts // paths <= most]
        found[str(drafts)] = best_shapes(counts, {shape: dict.fromkeys(RULES, 1.0) for shape in shapes})
    return found


def speeds(counts: Counts) -> dict[str, Any]:
    """Tokens per second in multiples of plain decoding, by machine: of each rule with its best shape, and of all."""
    shapes, found = sorted({(paths, length) for _, paths, length in counts}), {}
    for name, cost in machines().items():
        worth = {}
        for paths, length in shapes:
            tree = DraftTree.paths(paths, length)
            costs = {rule: cost(with_paths(rule, paths), tree) for rule in RULES}
            worth[paths, length] = {rule: 1 / one for rule, one in costs.items() if one is not None}
        gains: dict[str, dict[str, float]] = {}
        for (rule, paths, length), one_I in counts.items():
            if factor := worth[paths, length].get(rule):
                gains.setdefault(rule, {})[f"{paths}x{length}"] = round(float(one_I.mean()) * factor, 4)
        found[name] = best_shapes(counts, worth) | {"gains": gains}
    return found


def one_token(pair: SimulatedPair, setting: Setting, counts: Counts) -> dict[str, Any]:
    """Acceptance of one token by the number of drafts: exact, or the share of rounds that accept a draft."""
    laws = [pair.root_laws(setting.temperature, part, setting.blend) for part in pair.parts]
    target_IV, draft_IV = (torch.cat(one).double() for one in zip(*laws, strict=True))
    found = {}
    for k in PATHS:
        exact = {"optimal": each("optimal", target_IV, draft_IV, k)}
        exact |= {rule: each(rule, target_IV, draft_IV, k) for rule, most in EXACT.items() if 1 < k <= most}
        some_I = each("optimal-swor", target_IV[::EVERY], draft_IV[::EVERY], k)
        gain, error = mean_and_error(some_I - exact["optimal"][::EVERY])
        # For one token traversal is rrsw, and otm-block is otm.
        names = [rule for rule in RULES if (rule, k, 1) in counts and rule not in (*exact, "traversal", "otm-block")]
        sampled = {rule: counts[rule, k, 1] - 1 for rule in names}
        found[str(k)] = {name: mean_and_error(one_I) for name, one_I in (exact | sampled).items()}
        found[str(k)]["optimal-swor"] = round(float(exact["optimal"].mean()) + gain, 4), error
        found[str(k)]["exact"] = [*exact]
    return found


def each(rule: str, target_IV: torch.Tensor, draft_IV: torch.Tensor, k: int) -> torch.Tensor:
    """The acceptance of some contexts at a time."""
    parts = zip(target_IV.split(AT_ONCE), draft_IV.split(AT_ONCE), strict=True)
    return torch.cat([acceptance(rule, target_BV, draft_BV, k) for target_BV, draft_BV in parts])


def measure(pair: SimulatedPair, setting: Setting, longest: Mapping[int, int]) -> dict[str, Any]:
    """All that is told of a setting."""
    counts, shapes, ceilings = Counts(), dict[str, Any](), dict[str, dict[str, torch.Tensor]]()
    for paths, most in longest.items():
        own, ratios = count(pair, setting, paths, most)
        counts |= own
        for length in lengths_of(paths, most):
            some = {rule: one_I for (rule, _, of), one_I in own.items() if of == length}
            shapes[f"{paths}x{length}"] = ranked(some)
            bounds = {name: ratios[name] for name in ("iid", "without-replacement") if name in ratios}
            for name, ratio_SKL in bounds.items():
                bound_S = 1 + ceiling(ratios["iid"], ratio_SKL)[:, :length].sum(1)
                bound_I = bound_S.view(-1, len(pair.context_IC)).mean(0)
                ceilings.setdefault(f"{paths}x{length}", {})[name] = bound_I
    for shape, bounds in ceilings.items():
        shapes[shape]["ceiling"] = {name: mean_and_error(bound_I) for name, bound_I in bounds.items()}
    return {"temperature": setting.temperature, "draft": setting.draft} | {
        "overlap": mean_and_error(counts["single", 1, 1] - 1),
        "one_token": one_token(pair, setting, counts),
        "shapes": shapes,
        "budgets": budgets(counts, longest),
        "speeds": speeds(counts),
    }


def draw(result: Mapping[str, Any], path: Path) -> None:
    """A panel for every setting: tokens per round of each rule's best shape, over the drafted tokens."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.titlesize": 9, "svg.fonttype": "path", "svg.hashsalt": "spectr"}):
        figure = Figure(figsize=(10, 6.5), layout="constrained")
        panels = figure.subplots(2, 3, sharex=True).flatten()
        for panel, found in zip(panels, result["settings"], strict=False):
            draw_panel(panel, found)
        figure.suptitle("tokens per round of each rule's best shape, over the number of drafted tokens", fontsize=10)
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def draw_panel(panel: Any, found: Mapping[str, Any]) -> None:
    """The curves of one setting, and the highest ceiling of the shapes of as many tokens."""
    drafts = [int(name) for name in found["budgets"]]
    for rule in RULES:
        height = [budget["rules"][rule]["mean"][0] for budget in found["budgets"].values()]
        panel.plot(drafts, height, color=COLOURS[rule], label=rule, marker="o", markersize=3, linewidth=1.2)
    most = dict.fromkeys(drafts, 0.0)
    for shape, line in found["shapes"].items():
        paths, length = map(int, shape.split("x"))
        if paths * length in most:
            most[paths * length] = max(most[paths * length], *(mean for mean, _ in line["ceiling"].values()))
    panel.plot(drafts, list(most.values()), color="black", linestyle="--", label="ceiling")
    panel.set_xscale("log", base=2)
    panel.set_xticks(drafts, labels=[str(one) for one in drafts])
    panel.set_title(f"temperature {found['temperature']}, draft {found['draft']}")
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--small", is_flag=True, help="Few contexts, settings and shapes.")
@click.option("--contexts", type=click.IntRange(2), default=240, show_default=True, help="Rounds of every kind.")
@click.option("--output", type=click.Path(path_type=Path), default=RESULT, help="The figure is put beside it as .svg.")
def main(small: bool, contexts: int, output: Path) -> None:
    """Simulate, write the result file and draw the figure."""
    torch.set_num_threads(1)
    pair = SimulatedPair(contexts=8 if small else contexts)
    longest = {1: 8, 2: 4, 4: 4} if small else LONGEST
    found = []
    for setting in SETTINGS[2:3] if small else SETTINGS:
        found.append(measure(pair, setting, longest))
        for drafts, budget in found[-1]["budgets"].items():
            line = f"n = {drafts}: {budget['best']} {budget['rules'][budget['best']]}"
            click.echo(f"temperature {setting.temperature}, draft {setting.draft}, {line}")
    result = machine() | {"contexts": len(pair.context_IC), "settings": found}
    pairs = re.sub(r"\[\s+([-.\d]+),\s+([-.\d]+)\s+\]", r"[\1, \2]", json.dumps(result, indent=1))
    output.write_text(pairs + "\n", encoding="utf-8")
    draw(result, output)


if __name__ == "__main__":
    main()
