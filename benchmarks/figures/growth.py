"""The figure of ``growth.py``: a panel for each part, the medians with their range, and the lines a + b n."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, RED, PURPLE, SKY = "#0072b2", "#e69f00", "#009e73", "#d55e00", "#cc79a7", "#56b4e9"
PHASES = {"round": BLUE, "pass": GREEN, "drafting": ORANGE, "rest": RED}
SPLIT = {
    f"{phase}, {rows}": (f"{phase}, {rows}", colour, marker)
    for rows, marker in (("1 row", "o"), ("8 rows", "s"))
    for phase, colour in PHASES.items()
}
# For each part the title, the label of the sizes, that of the values, and the curves: their labels, colours, markers.
PANELS: Mapping[str, tuple[str, str, str, Mapping[str, tuple[str, str, str]]]] = {
    "records": ("A run without models", "records", "seconds, MiB", {
        "seconds of the run": ("seconds", BLUE, "o"), "MiB, largest": ("largest memory, MiB", ORANGE, "s"),
    }),
    "context": ("Behind longer texts, 1 row", "tokens of the text", "ms", {
        "reading": ("reading the text", ORANGE, "o"), "round, kseq K=2 L=4": ("round, kseq K=2 L=4", RED, "o"),
        "round, race K=1 L=4": ("round, race K=1 L=4", GREEN, "o"), "round, plain": ("round, plain", BLUE, "o"),
    }),
    "vocabulary": ("Wider vocabularies, 8 rows, K = 4, L = 4", "tokens of the vocabulary", "ms", {
        "round": ("round, kseq", BLUE, "o"), "pass": ("pass of the round", GREEN, "o"),
        "with drawing, otm": ("draw and select, otm", PURPLE, "s"),
        "with drawing, race": ("draw and select, race", SKY, "s"),
        "with drawing, rrsw": ("draw and select, rrsw", ORANGE, "s"),
        "with drawing, kseq": ("draw and select, kseq", RED, "s"),
        "with drawing, single": ("draw and select, single", "#777777", "s"),
    }),
    "rows": ("More rows", "rows", "ms", {
        "round, kseq K=2 L=4": ("round, kseq K=2 L=4", RED, "o"),
        "round, race K=1 L=4": ("round, race K=1 L=4", GREEN, "o"), "round, plain": ("round, plain", BLUE, "o"),
    }),
    "length": ("Longer drafts, kseq, K = 1", "length L", "ms", SPLIT),
    "drafts": ("More drafts, kseq, L = 4", "paths K", "ms", SPLIT),
}  # fmt: skip


def draw(result: Mapping[str, Any], path: Path) -> None:
    """Draw the parts that were measured, as SVG beside the result file."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context({"font.size": 9, "axes.titlesize": 10, "svg.fonttype": "path", "svg.hashsalt": "spectr"}):
        figure = Figure(figsize=(13, 9), layout="constrained")
        panels = zip(figure.subplots(2, 3).flatten(), PANELS.items(), strict=True)
        for panel, (part, (title, sizes, values, curves)) in panels:
            panel.set(title=title, xlabel=sizes, ylabel=values)
            if part in result:
                draw_panel(panel, result[part], curves)
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def draw_panel(panel: Any, part: Mapping[str, Any], curves: Mapping[str, tuple[str, str, str]]) -> None:
    """The curves of a part on logarithmic scales."""
    sizes = part["sizes"]
    between = [low + (high - low) * step / 8 for low, high in pairwise(sizes) for step in range(9)]
    for name, (label, colour, marker) in curves.items():
        curve = part["curves"][name]
        middle, fit = curve["median"], curve["line"]
        ends = [[m - low for m, low in zip(middle, curve["least"], strict=True)],
                [high - m for m, high in zip(middle, curve["most"], strict=True)]]  # fmt: skip
        panel.errorbar(sizes, middle, yerr=ends, fmt=marker, markersize=4, color=colour, label=label, capsize=2)
        panel.plot(between, [fit["start"] + fit["each"] * size for size in between], color=colour, linewidth=0.9)
    panel.set_xscale("log", base=2)
    panel.set_xticks(sizes, labels=[f"{size:,}" for size in sizes])
    panel.minorticks_off()
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter("{x:,g}")
    panel.grid(color="#dddddd", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(loc="upper left", bbox_to_anchor=(0, -0.16), ncols=2, frameon=False, fontsize=8)
