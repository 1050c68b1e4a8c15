"""All rules at equal budget: ``budget.py``."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from quoting.words import listed, measured, percent, span, table

ALONE = {
    "single": ("kseq", "rrs", "rrsw", "greedy", "otm"),
    "block": ("gbv", "traversal", "otm-block"),
    "race": ("gls",),
}
ONE_TOKEN = ((0.3, "4"), (0.6, "4"), (1.0, "2"), (1.0, "4"), (1.0, "8"), (1.5, "4"))
LIMITS = {"optimal": "optimum, independent drafts", "optimal-swor": "optimum, distinct drafts"}
DEFAULTS = (("block", "1x8"), ("kseq", "2x8"))  # of one path, and of several
PLAN_NAMES = tuple(" ".join(plan) for plan in DEFAULTS)
SHARES = 5  # rules and shapes that are shown for each machine


def one_token(result: dict[str, Any]) -> str:
    """How often one token is accepted, for each rule and the optima."""
    found = {one["temperature"]: one["one_token"] for one in result["settings"] if one["draft"] == "as it is"}
    columns = [found[temperature][k] for temperature, k in ONE_TOKEN]
    names = [name for name in columns[-1] if name != "exact" and name not in LIMITS]
    names.sort(key=lambda name: -statistics.fmean(column[name][0] for column in columns))
    lines = []
    for name in (*LIMITS, *names):
        shown = []
        for column in columns:
            mean, error = column[name]
            sampled = name not in LIMITS and name not in column["exact"]
            shown.append(f"{mean:.3f} ± {error:.3f}" if sampled else f"{mean:.3f}")
        lines.append([LIMITS.get(name, name), *shown])
    heads = [f"temperature {temperature:g}, k = {k}" for temperature, k in ONE_TOKEN]
    return (
        f"Acceptance of one token with k drafts behind {result['contexts']} contexts, {measured(result)}, exact but "
        "for figures with a standard error, which are shares of rounds. The optimum for distinct drafts is that for "
        "independent ones plus their difference behind a quarter of the contexts.\n\n" + table(("", *heads), lines)
    )


def tokens(result: dict[str, Any]) -> str:
    """Tokens per round with four paths of four drafts, and which rule and shape is best for as many drafts."""
    settings, names = result["settings"], None
    lines = []
    for one in settings:
        cell = one["shapes"]["4x4"]
        names = names or sorted(cell["rules"], key=lambda rule: -mean_share(settings, rule))
        shown = [mark(f"{cell['rules'][rule]['mean'][0]:.2f}", rule in ties(cell)) for rule in names]
        lines.append([title(one), *shown, *(f"{mean:.2f}" for mean, _ in cell["ceiling"].values())])
    drafts = list(settings[0]["budgets"])
    best = [[title(one), *(leaders(one["budgets"][n]) for n in drafts)] for one in settings]
    return (
        "Tokens per round with four paths of four drafts; in bold the best rule and those that are within two standard "
        f"errors of it ({errors(result)}). The ceilings bound every lossless rule with four such independent paths, or "
        "with paths that begin with distinct drafts.\n\n"
        + table(("temperature, draft", *(names or ()), "ceiling", "ceiling, distinct"), lines)
        + "\n\nThe best rule and shape, paths times length, for as many drafted tokens, with its tokens per round, and "
        "behind it the rules that are within two standard errors with their own best shapes:\n\n"
        + table(("temperature, draft", *(f"n = {n}" for n in drafts)), best)
    )


def speed(result: dict[str, Any]) -> str:
    """What is fastest by modelled costs."""
    lines = []
    for one in result["settings"]:
        for name, cell in one["speeds"].items():
            race = cell["rules"]["race"]
            told = [f"{cell['gains'][rule][shape]:.2f}" for rule, shape in DEFAULTS]
            lines.append([title(one), name, leaders(cell), f"{race['shape']} {race['mean'][0]:.2f}", *told])
    return (
        "Tokens per second in multiples of plain decoding, by modelled costs: the best rule and shape and what is "
        "within two standard errors of it, the best race, and the default plans for one path and for several.\n\n"
        + table(("temperature, draft", "machine", "best", "best race", *PLAN_NAMES), lines)
    )


def verdict(result: dict[str, Any]) -> str:
    """How often each rule is among the best, and which rule and shape keeps most over all settings."""
    kinds = list(cells(result))
    names = sorted(result["settings"][0]["shapes"]["4x4"]["rules"] | {"single": 0, "block": 0}, key=rank_of(kinds))
    lines = [[f"`{name}`", *(standing(name, found) for _, found in kinds)] for name in names]
    return (
        "How often each rule is the best or within two standard errors of the best, and by how much it is behind the "
        "best in the mean. With one path several rules are one, and count together.\n\n"
        + table(("rule", *(kind for kind, _ in kinds)), lines)
        + "\n\nWhat a fixed plan keeps of the best rule and shape of each setting, in the mean and at least, by "
        "modelled tokens per second; on the right the default plans:\n\n"
        + table(
            ("machine", "most kept", *PLAN_NAMES), [fixed(result, name) for name in result["settings"][0]["speeds"]]
        )
    )


def advice(result: dict[str, Any]) -> str:
    """What follows for the choice of a rule."""
    shapes = next(found for _, found in cells(result))
    most = sorted(shapes[0]["rules"], key=lambda name: behind(name, shapes))
    told = [f"`{name}` {percent(behind(name, shapes), '.1f')}" for name in dict.fromkeys([*most[:3], "kseq", "race"])]
    kept = []
    for name in result["settings"][0]["speeds"]:
        found = shares(result, name)
        plans = [f"`{rule}` {shape} ({percent(mean)})" for mean, _, rule, shape in found[:2]]
        means = {(rule, shape): mean for mean, _, rule, shape in found}
        defaults = listed(f"`{rule}` {shape} {percent(means[rule, shape])}" for rule, shape in DEFAULTS)
        kept.append(f"{name}: {listed(plans)}, and the default plans {defaults}")
    return (
        "By simulated rounds of the demo pair ([all rules at equal budget](benchmarks.md#all-rules-at-equal-budget)) "
        "and several paths of one shape, a rule has so many fewer tokens per round than the best one of each case, in "
        f"the mean: {listed(told)}.\n\n"
        "The fixed plans, rule and paths times length, that keep most of the best of each case by modelled tokens per "
        f"second, in the mean: on a {'; on a '.join(kept)}. The GPU's "
        "costs are foretold, of a memory that is the limit; its draft call is told as a share of a pass.\n\n"
        f"`gbv` with one, two, four and eight paths of four writes {listed(several_of_gbv(result))} tokens per round. "
        "It follows the path whose tokens have the largest t / d; among many that is one that the draft all but rules "
        "out."
    )


def several_of_gbv(result: dict[str, Any]) -> Iterator[str]:
    """Yield what `gbv`, of one path `block`, writes at temperature 1 with the draft as it is and with a worse one."""
    for one in result["settings"]:
        if one["temperature"] == 1 and one["draft"] != "better":
            rules = [one["shapes"][f"{paths}x4"]["rules"] for paths in (1, 2, 4, 8)]
            means = [found.get("gbv", found.get("block"))["mean"][0] for found in rules]
            name = "the draft as it is" if one["draft"] == "as it is" else f"a {one['draft']} draft"
            yield f"{', '.join(f'{mean:.2f}' for mean in means)} (with {name})"


def cells(result: dict[str, Any]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the comparisons of each kind: several paths of one shape, as many drafts, and every machine."""
    settings = result["settings"]
    several = ("2x2", "2x4", "2x8", "4x2", "4x4", "4x8", "8x2", "8x4", "8x8")
    yield "several paths, one shape", [one["shapes"][shape] for one in settings for shape in several]
    yield "as many drafts", [cell for one in settings for cell in one["budgets"].values()]
    for kind in ("CPU", "GPU"):
        yield kind, [cell for one in settings for name, cell in one["speeds"].items() if name.startswith(kind)]


def canonical(cell: Mapping[str, Any], rule: str) -> str:
    """The rule that a rule is with its shape."""
    if str(cell["rules"][rule].get("shape", "")).startswith("1x"):
        return next((name for name, others in ALONE.items() if rule in others), rule)
    return rule


def ties(cell: Mapping[str, Any]) -> dict[str, str]:
    """The best and the rules within two standard errors of it, with their shapes; the best first."""
    near = [rule for rule, one in cell["rules"].items() if one["behind"][0] <= 2 * one["behind"][1]]
    near = sorted({cell["best"], *near}, key=lambda rule: (cell["rules"][rule]["behind"][0], rule))
    return {canonical(cell, rule): cell["rules"][rule].get("shape", "") for rule in near}


def leaders(cell: Mapping[str, Any]) -> str:
    """The best rule with its shape and height, and the others that are as good within the error."""
    (first, shape), *others = ties(cell).items()
    told = f"**{first} {shape}** {cell['rules'][cell['best']]['mean'][0]:.2f}"
    return told + (f" ({', '.join(f'{rule} {own}' for rule, own in others)})" if others else "")


def behind(name: str, found: list[dict[str, Any]]) -> float:
    """How much of the best a rule lacks in the mean."""
    kept = [
        cell["rules"][name]["behind"][0] / cell["rules"][cell["best"]]["mean"][0] for cell in found if has(cell, name)
    ]
    return statistics.fmean(kept) if kept else 1.0


def has(cell: Mapping[str, Any], name: str) -> bool:
    """Whether a comparison has the rule."""
    return name in cell["rules"]


def standing(name: str, found: list[dict[str, Any]]) -> str:
    """How often a rule is among the best, and how far it is behind."""
    taken = [cell for cell in found if has(cell, name)]
    if not taken:
        return "-"
    return f"{sum(name in ties(cell) for cell in taken)} of {len(taken)}, {percent(behind(name, taken), '.1f')} behind"


def rank_of(kinds: list[tuple[str, list[dict[str, Any]]]]) -> Any:
    """Order rules by how far they are behind for as many drafts."""
    return lambda name: behind(name, kinds[1][1])


def mean_share(settings: list[dict[str, Any]], rule: str) -> float:
    """What a rule keeps of the best with four paths of four."""
    return 1 - behind(rule, [one["shapes"]["4x4"] for one in settings])


def shares(result: dict[str, Any], machine: str) -> list[tuple[float, float, str, str]]:
    """What every rule and shape keeps of the best of each setting, mean and least, the best first."""
    found: dict[tuple[str, str], list[float]] = {}
    for one in result["settings"]:
        cell = one["speeds"][machine]
        best = max(max(shapes.values()) for shapes in cell["gains"].values())
        for rule, shapes in cell["gains"].items():
            for shape, gain in shapes.items():
                found.setdefault((rule, shape), []).append(gain / best)
    listing = ((statistics.fmean(kept), min(kept), *plan) for plan, kept in found.items())
    return sorted(listing, reverse=True)


def fixed(result: dict[str, Any], machine: str) -> list[str]:
    """A machine's line: the fixed plans that keep most, and the defaults."""
    kept = {
        (rule, shape): f"{percent(mean)} ({percent(least)})" for mean, least, rule, shape in shares(result, machine)
    }
    told = [f"{rule} {shape} {words}" for (rule, shape), words in kept.items()]
    return [machine, ", ".join(told[:SHARES]), *(kept[plan] for plan in DEFAULTS)]


def errors(result: dict[str, Any]) -> str:
    """The standard errors of tokens per round, as shares."""
    found = [one["shapes"]["4x4"]["rules"]["kseq"]["mean"] for one in result["settings"]]
    return f"those of a mean are {span([100 * error / mean for mean, error in found], '.1f')} per cent"


def title(one: Mapping[str, Any]) -> str:
    """The name of a setting."""
    return f"{one['temperature']:g}, {one['draft']}"


def mark(text: str, bold: bool) -> str:
    """The text, in bold if so."""
    return f"**{text}**" if bold else text


QUOTES = {
    "budget-acceptance": ("budget.json", one_token),
    "budget-tokens": ("budget.json", tokens),
    "budget-speed": ("budget.json", speed),
    "budget-verdict": ("budget.json", verdict),
    "budget-advice": ("budget.json", advice),
}
