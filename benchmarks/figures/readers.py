"""The figure of ``readers.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from figures.styles import COLOURS, MARKERS


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw what was measured, if all of it was: laws of two tokens above; paths, quality and size of drafts below."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    if not {"bernoulli", "blocks", "quality", "sizes"} <= result.keys():
        return
    with rc_context({"font.size": 10, "axes.titlesize": 10, "svg.fonttype": "path", "svg.hashsalt": "spectr"}):
        figure = Figure(figsize=(12, 7.6), layout="constrained")
        upper, lower = figure.subplots(2, 3)
        for panel, family in zip(upper, result["bernoulli"]["families"], strict=True):
            draw_family(panel, result["bernoulli"]["drafts"], family)
        draw_blocks(lower[0], result["blocks"])
        draw_quality(lower[1], result["quality"]["lines"])
        draw_sizes(lower[2], result["sizes"]["lines"])
        upper[0].set_ylabel("acceptance probability")
        lower[0].set_ylabel(f"tokens per round, L = {result['blocks']['length']}")
        for panel in (*upper, *lower):
            panel.grid(color="#dddddd", linewidth=0.6)
            panel.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def draw_family(panel: Any, drafts: list[int], family: dict[str, Any]) -> None:
    """Acceptance on laws of two tokens."""
    for rule, alphas in family["curves"].items():
        kept = {"linewidth": 2.2} if rule == "optimal" else {"marker": MARKERS[rule], "markersize": 4}
        panel.plot(drafts, alphas, color=COLOURS[rule], label="optimum" if rule == "optimal" else rule, **kept)
    panel.set_xticks(drafts[::3])
    panel.set(title=f"two tokens, a = {family['a']}, b = {family['b']}", xlabel="drafts k")
    panel.legend(frameon=False, fontsize=8, loc="lower right")


def draw_blocks(panel: Any, blocks: dict[str, Any]) -> None:
    """Tokens per round against the number of paths."""
    counts = [int(paths) for paths in blocks["by_paths"]]
    for rule in COLOURS:
        found = {int(paths): lines[rule] for paths, lines in blocks["by_paths"].items() if rule in lines}
        if found:
            means, errors = zip(*found.values(), strict=True)
            line = {"color": COLOURS[rule], "marker": MARKERS[rule], "markersize": 4, "label": rule}
            panel.errorbar([*found], means, errors, linewidth=1.2, capsize=2, **line)
    panel.set_xscale("log", base=2)
    panel.set_xticks(counts, labels=[str(count) for count in counts])
    panel.set(title="paths, the small pair", xlabel="paths K")
    panel.legend(frameon=False, fontsize=7, ncols=2)


def draw_quality(panel: Any, lines: list[dict[str, Any]]) -> None:
    """Tokens per round against the total variation."""
    for rule in lines[0]["tokens_per_round"]:
        for toward in ("target", "unigram"):
            mine = [one for one in lines if one["weight"] == 0 or one["toward"] == toward]
            means = [one["tokens_per_round"][rule][0] for one in mine]
            line = {"color": COLOURS[rule], "marker": MARKERS[rule], "markersize": 4}
            name = (rule if rule == "single" else f"{rule}, K = 4") if toward == "target" else None
            panel.plot([one["total_variation"] for one in mine], means, label=name, **line)
    panel.set(title="quality of the draft", xlabel="total variation")
    panel.legend(frameon=False, fontsize=8)


def draw_sizes(panel: Any, lines: list[dict[str, Any]]) -> None:
    """Tokens per round against the draft's parameters, and what the modelled costs leave of them."""
    *trained, own = lines
    sizes = [one["cost"]["parameters"] / 1e6 for one in trained]
    for rule in own["tokens_per_round"]:
        line = {"color": COLOURS[rule], "marker": MARKERS[rule], "markersize": 4}
        name = rule if rule == "single" else f"{rule}, K = 4"
        panel.plot(sizes, [one["tokens_per_round"][rule][0] for one in trained], label=name, **line)
        panel.plot(sizes, [one["speed"]["timed"][rule] for one in trained], linestyle=":", **line)
    panel.plot([], [], color="#444444", linestyle=":", label="by a target's call, modelled")
    panel.set_xscale("log")
    panel.set_xticks(sizes, labels=[f"{size:.2g}" for size in sizes])
    panel.minorticks_off()
    panel.set(title="size of the draft, alike trained", xlabel="millions of parameters")
    panel.legend(frameon=False, fontsize=7)
