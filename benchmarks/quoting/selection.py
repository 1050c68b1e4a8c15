"""Time and memory of selection: ``selection.py``."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from quoting.words import counted, listed, measured, span

SHOWN = {"rows": 8, "drafts": 4, "length": 4}
LARGE, COPIES = 32_768, 3  # the vocabularies for which the aim was set, and the aim


def cost(result: dict[str, Any]) -> str:
    """How many copies of the laws kseq takes, where they go, and how all rules grow."""
    lines = result["lines"]
    aim = [one for one in lines if one["rule"] in ("kseq", "single") and one["V"] >= LARGE]
    own = [one for one in aim if one["rule"] == "kseq"]
    many = [one["ratio"] for one in own if one["K"] >= 4 and one["B"] >= 8]
    two = [one for one in own if one["K"] == 2 and one["B"] >= 8]
    over = [(one["select_ms"] - one["overhead_ms"]) / one["select_ms"] for one in two]
    grown = powers(lines)
    most = max(grown, key=lambda rule: grown[rule][2])
    return (
        f"Measured {measured(result, 'torch')}, {counted(result['threads'], 'thread')} "
        "([table](../benchmarks/results/selection.md)):\n\n"
        f"- With a vocabulary of {LARGE:,} or more, `kseq` (`single` for one path) stayed within {COPIES} copies in "
        f"{sum(one['ratio'] <= COPIES for one in aim)} of {len(aim)} sizes. With four or eight paths and 8 or 64 rows "
        f"it took {span(many, '.1f')} copies: it only looks at the nodes on the way, and the copy at all of them. With "
        f"two paths and as many rows it took {span((one['ratio'] for one in two), '.1f')}, in the median "
        f"{100 * statistics.median(over):.0f} % of that in passes over the laws.\n"
        "- The laws of a single row fit into the processor's cache. Where the vocabulary is small as well, the copy is "
        "too fast for any program of separate tensor operations to come near it "
        f"({span((one['ratio'] for one in own if one['B'] == 1), '.1f')} copies).\n"
        f"- The time of `kseq` grew with the power {grown['kseq'][2]:.2f} of the vocabulary up to "
        f"{grown['kseq'][1]:,}; fastest grew that of `{most}`, with the power {grown[most][2]:.2f}.\n"
        "- In the median over the sizes with such a vocabulary most copies were taken by "
        f"{listed(f'`{rule}` ({copies:.0f})' for rule, copies in slowest(lines))}."
    )


def slowest(lines: list[dict[str, Any]]) -> list[tuple[str, float]]:
    """The three rules that take most copies in the median, with a large vocabulary."""
    medians = {
        rule: statistics.median(one["ratio"] for one in lines if one["rule"] == rule and one["V"] >= LARGE)
        for rule in rules_of(lines)
    }
    return sorted(medians.items(), key=lambda pair: -pair[1])[:3]


def powers(lines: list[dict[str, Any]]) -> dict[str, tuple[int, int, float]]:
    """Between which vocabularies, and with which power of the vocabulary the time of each rule grows."""
    found = {}
    for rule in rules_of(lines):
        mine = {
            one["V"]: one["select_ms"]
            for one in lines
            if one["rule"] == rule and [one["B"], one["K"], one["L"]] == list(SHOWN.values())
        }
        if len(mine) > 1 and max(mine) > LARGE:
            low, high = (LARGE if LARGE in mine else min(mine)), max(mine)
            found[rule] = low, high, math.log(mine[high] / mine[low]) / math.log(high / low)
    return found


def rules_of(lines: Iterable[dict[str, Any]]) -> list[str]:
    """The rules in the order in which they were measured."""
    return list(dict.fromkeys(one["rule"] for one in lines))


def sizes_of(lines: list[dict[str, Any]], name: str) -> list[int]:
    """The sizes of a kind that were measured."""
    return sorted({one[name] for one in lines})


def table(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Markdown: all rules over the vocabulary and over rows and lengths, then kseq at every size."""
    shown = [one for one in lines if one["K"] in (1, SHOWN["drafts"])]
    yield f"Ratio to the copy of the laws; {SHOWN}, one path for single and block. MiB at the largest V.\n"
    at = [one for one in shown if (one["B"], one["L"]) == (SHOWN["rows"], SHOWN["length"])]
    yield from rules_table(
        {f"V = {size}": [one for one in at if one["V"] == size] for size in sizes_of(lines, "V")}, True
    )
    largest = max(one["V"] for one in lines)
    yield f"\nThe same over rows B and length L, at V = {largest}.\n"
    at = [one for one in shown if one["V"] == largest]
    sizes = itertools.product(sizes_of(lines, "L"), sizes_of(lines, "B"))
    some = {f"B = {B}, L = {L}": [one for one in at if (one["B"], one["L"]) == (B, L)] for L, B in sizes}
    yield from rules_table(some, False)
    yield "\n`kseq` (`single` for one path): ratio to the copy, its range, milliseconds, of these without V.\n"
    yield "| V | B | K | L | repeats | ratio | range | select | overhead | copy |"
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for one in lines:
        if one["rule"] in ("kseq", "single"):
            size = " | ".join(str(one[name]) for name in ("V", "B", "K", "L", "repeats"))
            low, high = one["ratio_range"]
            times = " | ".join(f"{one[name]:.2f}" for name in ("select_ms", "overhead_ms", "copy_ms"))
            yield f"| {size} | {one['ratio']:.2f} | {low:.2f} to {high:.2f} | {times} |"


def rules_table(columns: dict[str, list[dict[str, Any]]], memory: bool) -> Iterator[str]:
    """A row of ratios for every rule, a column for every size that was measured; its memory in the last one."""
    columns = {name: some for name, some in columns.items() if some}
    if not columns:
        return
    heads = [*columns, *(["memory", "laws"] if memory else [])]
    yield f"| rule | {' | '.join(heads)} |"
    yield "|---|" + "---|" * len(heads)
    for rule in rules_of(line for some in columns.values() for line in some):
        mine = [next((one for one in some if one["rule"] == rule), None) for some in columns.values()]
        if any(mine):
            cells = ["" if one is None else f"{one['ratio']:.2f}" for one in mine]
            if memory and mine[-1]:
                cells += [f"{mine[-1]['peak_mib']:.0f}", f"{mine[-1]['laws_mib']:.0f}"]
            yield f"| `{rule}` | {' | '.join(cells)} |"


def verdict(lines: list[dict[str, Any]]) -> Iterator[str]:
    """Where kseq is against the aim of three copies, why, and how the rules grow with the vocabulary."""
    large = [one for one in lines if one["rule"] in ("kseq", "single") and one["V"] >= 32_768]
    within = [one for one in large if one["ratio"] <= 3]
    yield f"kseq selects within 3 copies in {len(within)} of {len(large)} sizes with V >= 32768."
    for one in large:
        if one["ratio"] > 3:
            passes = (one["select_ms"] - one["overhead_ms"]) / one["copy_ms"]
            yield (
                "  V={V} B={B} K={K} L={L}: {ratio:.2f} copies, ".format(**one)
                + f"{one['overhead_ms'] / one['copy_ms']:.2f} of them to issue operations, {passes:.2f} over V"
            )
    for rule, (low, high, power) in powers(lines).items():
        yield f"{rule}: time grows with V^{power:.2f} from {low} to {high}"


QUOTES = {"selection": ("selection.json", cost)}
