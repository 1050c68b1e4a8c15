"""The figure of ``ersd.py``: races over shapes with their bound, rules on their trees, and what entropy tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

SHAPES = {
    "chain": ("chain", {"color": "#888888", "marker": "s"}),
    "siblings": ("siblings only", {"color": "#e69f00", "marker": "D"}),
    "paths": ("paths", {"color": "#009e73", "marker": "^"}),
    "tree of race": ("tree of the rank law", {"color": "#0072b2", "marker": "o"}),
}
RULES = {
    ("tree of race", "race"): ("race", {"color": "#0072b2", "marker": "o"}),
    ("tree of rrs", "rrs"): ("rrs", {"color": "#009e73", "marker": "^"}),
    ("tree of rrs", "kseq"): ("kseq, tree of rrs", {"color": "#d55e00", "marker": "s"}),
    ("tree of rrsw", "rrsw"): ("rrsw", {"color": "#56b4e9", "marker": "<"}),
    ("tree of traversal", "traversal"): ("traversal", {"color": "#8b4513", "marker": "X"}),
}
BINS = ("#08306b", "#2171b5", "#e69f00", "#d55e00")
RANKS = 8


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw a column of panels for each setting, as SVG."""
    with rc_context({"font.size": 9, "axes.titlesize": 9, "svg.fonttype": "path", "svg.hashsalt": "spectr"}):
        figure = Figure(figsize=(3.3 * max(len(result["settings"]), 2), 11), layout="constrained")
        rows = figure.subfigures(4, 1)
        titles = ("races: tokens per round", "trees: tokens per round", "share of the rank", "to the stateless tree, %")
        for part, panel_of, title in zip(rows, (races, rules, ranks, gains), titles, strict=True):
            panels = part.subplots(1, len(result["settings"]), squeeze=False)[0]
            for panel, (name, found) in zip(panels, sorted(result["settings"].items()), strict=True):
                panel_of(panel, found)
                panel.set_title(f"temperature {name}")
                panel.grid(color="#dddddd", linewidth=0.6)
                panel.spines[["top", "right"]].set_visible(False)
            panels[0].set_ylabel(title)
            part.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
        figure.savefig(path, metadata={"Date": None})


def races(panel: Axes, found: dict[str, Any]) -> None:
    """Races over shapes, and the bound of the paper."""
    for shape, (label, style) in SHAPES.items():
        curve(panel, lines_of(found, shape, "race"), label, style)
    bound = {int(drafts): most for drafts, most in found["bound"]["tokens"].items()}
    panel.plot(list(bound), list(bound.values()), color="black", linestyle="--", label="bound")
    panel.set_ylim(bottom=0)


def rules(panel: Axes, found: dict[str, Any]) -> None:
    """Every rule on a tree for it."""
    for (shape, rule), (label, style) in RULES.items():
        curve(panel, lines_of(found, shape, rule), label, style)
    panel.set_ylim(bottom=0)


def lines_of(found: dict[str, Any], shape: str, rule: str) -> list[dict[str, Any]]:
    """What was measured of a rule on a shape."""
    return [line for line in found["compared"] if (line["shape"], line["rule"]) == (shape, rule)]


def curve(panel: Axes, lines: list[dict[str, Any]], label: str, style: dict[str, str]) -> None:
    """Means with their standard errors over the number of drafts."""
    drafts, means, errors = zip(*((line["drafts"], *line["tokens"]) for line in lines), strict=True)
    panel.errorbar(drafts, means, errors, label=label, markersize=4, linewidth=1.2, capsize=2, **style)
    over_drafts(panel, drafts)


def over_drafts(panel: Axes, drafts: tuple[int, ...]) -> None:
    """Mark the numbers of drafts."""
    panel.set_xscale("log", base=2)
    panel.set_xticks(drafts, labels=[str(number) for number in drafts])
    panel.set_xlabel("drafted tokens")


def ranks(panel: Axes, found: dict[str, Any]) -> None:
    """The rank law by the entropy of the draft's law."""
    bins = zip([0.0, *found["aware"]["edges"]], found["aware"]["laws"], BINS, strict=True)
    for number, (edge, law, color) in enumerate(bins, start=1):
        shown = [chance or float("nan") for chance in law[:RANKS]]
        label = f"quarter {number} of the draft's entropy"
        panel.semilogy(range(RANKS), shown, color=color, marker="o", markersize=3, label=label)
        place = (0.98, 1 - 0.09 * number)
        panel.annotate(f"from {edge:.2f} nats", place, xycoords="axes fraction", ha="right", color=color)
    panel.set_xlabel("rank")


def gains(panel: Axes, found: dict[str, Any]) -> None:
    """What trees that are chosen in other ways gain over the stateless one."""
    lines = found["aware"]["lines"]
    drafts = tuple(line["drafts"] for line in lines)
    styles = {
        "frequent": ("frequent paths", {"color": "#888888", "marker": "s"}),
        "root": ("by the root's entropy", {"color": "#d55e00", "marker": "o"}),
        "node": ("by every node's entropy", {"color": "#0072b2", "marker": "^"}),
        "above": ("as many drafts on average", {"color": "#009e73", "marker": "D"}),
    }
    for place, (name, (label, style)) in enumerate(styles.items()):
        # No row has grown more drafts than the most, so that all have as many there.
        shown = lines[: -1 if name == "above" else None]
        shares, errors = (
            [100 * line["to_stateless"][name][part] / line["tokens"]["stateless"][0] for line in shown]
            for part in range(2)
        )
        moved = [line["drafts"] * 1.04 ** (place - 1) for line in shown]
        panel.errorbar(moved, shares, errors, label=label, markersize=4, linewidth=1.2, capsize=2, **style)
    panel.axhline(0, color="black", linewidth=0.8)
    over_drafts(panel, drafts)
