"""The figure of SpecTr's headline experiment."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from papers.headline_model import DRAFTS, LENGTHS

COLOURS = {2: "#009e73", 4: "#0072b2", 8: "#d55e00"}
PAPER = {"block_efficiency": {1: 2.9, 8: 4.0}, "to_plain": {8: 2.13}}  # L = 8


def draw(pairs: dict[str, Any], path: Path) -> None:
    """Block efficiency and speed beside plain decoding over K, a line for each L, two panels for each pair and batch.

    Args:
        pairs: What was measured of each pair of models, as in the result file.
        path: Where the figure goes, an SVG.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    batches = [(name, rows, batch["cells"]) for name, facts in pairs.items() for rows, batch in facts["rows"].items()]
    with rc_context({"font.size": 10, "axes.titlesize": 10, "svg.fonttype": "path", "svg.hashsalt": "spectr"}):
        figure = Figure(figsize=(9, 3.2 * len(batches) + 0.6), layout="constrained")
        panels = figure.subplots(len(batches), 2, sharex=True, squeeze=False)
        for (left, right), (name, rows, cells) in zip(panels, batches, strict=True):
            _draw_batch(left, right, cells)
            left.set_title(f"{name}, {'one row' if rows == '1' else f'{rows} rows'}")
            left.set_ylabel("block efficiency")
            right.set_ylabel("speed over plain decoding")
        for panel in panels[-1]:
            panel.set_xlabel("drafts K")
        figure.legend(*panels[0][1].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
        figure.savefig(path, metadata={"Date": None})


def _draw_batch(left: Any, right: Any, cells: list[dict[str, Any]]) -> None:
    by_plan = {one["plan"]: one for one in cells}
    plain = by_plan["plain"]
    for length in LENGTHS:
        chosen, colour = [by_plan[f"kseq K={drafts} L={length}"] for drafts in DRAFTS], COLOURS[length]
        errors = [one["standard_error"] for one in chosen]
        kept = {"color": colour, "capsize": 2, "linewidth": 1.3, "marker": "s", "markersize": 4}
        left.errorbar(DRAFTS, [one["block_efficiency"] for one in chosen], errors, label=f"L = {length}", **kept)
        middle = [one["to_plain"]["median"] for one in chosen]
        span = [
            [one - found["to_plain"]["least"] for one, found in zip(middle, chosen, strict=True)],
            [found["to_plain"]["most"] - one for one, found in zip(middle, chosen, strict=True)],
        ]
        right.errorbar(DRAFTS, middle, span, label=f"L = {length}", **kept)
        guessed = [_guess(one) / _guess(plain) for one in chosen]
        hollow = {"color": colour, "marker": "o", "markersize": 9, "fillstyle": "none", "linestyle": "none"}
        right.plot(DRAFTS, guessed, label=f"L = {length}, predicted", **hollow)
    for panel, paper in ((left, PAPER["block_efficiency"]), (right, PAPER["to_plain"])):
        panel.plot([*paper], [*paper.values()], "k*", markersize=9, label="SpecTr's paper, L = 8", zorder=9)
        panel.set_xscale("log", base=2)
        panel.set_xticks(DRAFTS, labels=[str(drafts) for drafts in DRAFTS])
        panel.set_ylim(bottom=0)
        panel.grid(color="#dddddd", linewidth=0.6)
        panel.spines[["top", "right"]].set_visible(False)
    right.axhline(1, color="#888888", linestyle=":", zorder=1)


def _guess(one: dict[str, Any]) -> float:
    return float(one["predicted"]["tokens_per_second"])
