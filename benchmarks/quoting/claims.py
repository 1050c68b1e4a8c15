"""What became of each claim, in a sentence: the list at the head of the document."""

from __future__ import annotations

import itertools
from typing import Any

from quoting.ersd import KINDS
from quoting.headline import PAPER_GAIN, PAPER_SPEED
from quoting.words import listed, percent, ratio, span

Result = dict[str, Any]


def acceptance(result: Result) -> str:
    """SpecTr's claim about block efficiency, at its draft's quality."""
    ways = result["like-quality"]["ways"].values()
    most = [(way["single"], next(one for one in way["kseq"] if one["drafts"] == 8)) for way in ways]
    told = (
        f"{one['block_efficiency']:.2f} for {single:.2f}, "
        f"{one['to_single']:.2f} ± {one['to_single_standard_error']:.2f}"
        for single, one in most
    )
    return (
        "- *Eight paths of eight drafts write 4.0 tokens a pass where one writes 2.9* (SpecTr), "
        f"{PAPER_GAIN:.2f} times as many. For a single draft made as weak as the paper's, in two ways, here: "
        f"{listed(told)} times."
    )


def speed(result: Result) -> str:
    """SpecTr's claim about the wall clock."""
    told, held, cells = [], 0, 0
    for name, facts in result["pairs"].items():
        batch = facts["rows"]["1"]
        found = {one["plan"]: one for one in batch["cells"]}
        best = max(batch["cells"], key=lambda one: float(one["to_plain"]["median"]))
        models = "the padded pair" if name == "padded" else name
        told.append(
            f"{models} {ratio(**found['kseq K=8 L=8']['to_plain'])}, where the best plan, `{best['plan']}`, has "
            f"{best['to_plain']['median']:.2f}"
        )
        for other in facts["rows"].values():
            held, cells = held + other["predictions_that_hold"], cells + len(other["cells"])
    return (
        f"- *With them it decodes {PAPER_SPEED} times as fast as plain decoding* (SpecTr, on an accelerator). On a "
        f"CPU of two cores, at one row: {listed(told)}. A model of call costs and acceptance predicts {held} of "
        f"{cells} measured speeds, and foretells a GPU's."
    )


def optimum(result: Result) -> str:
    """SpecTr's open question and its guarantee."""
    gap = max(result["transport"]["largest_difference"].values())
    lowest = min(result["kseq_over_optimal"], key=lambda one: one["lowest"])
    return (
        "- *Has the optimal acceptance a closed form for several drafts?* (SpecTr asks.) It has, and equals the linear "
        f"program to {gap:.0e}. *K-SEQ keeps at least 1 - 1/e of it* (SpecTr): the least met here is "
        f"{lowest['lowest']:.3f}, at k = {lowest['k']}, and c_k, the least possible, falls to .826 for many."
    )


def budget(result: Result) -> str:
    """Which rule is best where."""
    cells = [cell for one in result["settings"] for cell in one["budgets"].values()]
    block = sum(cell["best"] == "block" for cell in cells)
    return (
        f"- *Which rule is best?* Of as many drafted tokens one long path under `block` writes most in {block} of "
        f"{len(cells)} settings, and several paths where the draft is weak. The defaults follow from that."
    )


def races(result: Result) -> str:
    """ERSD's claim, its bound and its future work."""
    shares = [
        line["tokens"][0] / found["bound"]["tokens"][str(line["drafts"])]
        for found in result["settings"].values()
        for line in found["compared"]
        if (line["rule"], line["shape"]) == ("race", "tree of race")
    ]
    gains = [
        line["to_stateless"][kind][0] / line["tokens"]["stateless"][0]
        for found, kind in itertools.product(result["settings"].values(), KINDS)
        for line in found["aware"]["lines"]
        if kind in line["to_stateless"]
    ]
    return (
        "- *Races match the rules that test ratios* (ERSD): over wide trees and weak drafts, not over the long chains "
        f"of a good draft. Its bound holds everywhere; {span((100 * share for share in shares), '.0f')} % of it is "
        "reached. Trees that know the draft's entropy, which it leaves to later work, change "
        f"{percent(min(gains), '+.1f')} to {percent(max(gains), '+.1f')}."
    )


def newest(result: Result) -> str:
    """Where the newest rules stand."""
    found = result["exact"]["rules"]
    share = found["otm-block"]["tokens"] / result["exact"]["ceilings"]["iid"]
    gains = [cell["rules"][rule]["less"] for cell in result["pair"] for rule in ("kseq", "otm", "gbv")]
    return (
        "- *The optimum for independent paths* (SpecTr-GBV): the rule `otm-block`, made of its idea, has "
        f"{percent(share, '.1f')} of the most that any rule can, and {span(gains)} tokens a round more than `kseq`, "
        "`otm` and `gbv` on the same drafts. It is in the package; UniVer, and the formulas of public code, are not."
    )


def growth(result: Result) -> str:
    """How cost grows."""
    records = result["records"]
    each = records["curves"]["seconds of the run"]["line"]
    powers = {
        "tokens before it": result["context"]["curves"]["round, race K=1 L=4"]["power"],
        "rows of the batch": result["rows"]["curves"]["round, race K=1 L=4"]["power"],
        "paths, at eight rows,": result["drafts"]["curves"]["round, 8 rows"]["power"],
        "tokens of the vocabulary": result["vocabulary"]["curves"]["round"]["power"],
    }
    return (
        f"- *How does cost grow?* A run without models takes {1e6 * each['each']:.0f} microseconds for each of up to "
        f"{records['sizes'][-1]:,} records, within {percent(each['deviation'])}. The time of a round grows with these "
        f"powers of its sizes: {listed(f'{name} {power:.2f}' for name, power in powers.items())}."
    )


QUOTES = {
    "claim-acceptance": ("headline.json", acceptance),
    "claim-speed": ("headline.json", speed),
    "claim-optimum": ("acceptance.json", optimum),
    "claim-budget": ("budget.json", budget),
    "claim-races": ("ersd.json", races),
    "claim-newest": ("newest.json", newest),
    "claim-growth": ("growth.json", growth),
}
