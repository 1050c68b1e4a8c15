"""What became of each claim, in a sentence: the list at the head of the document."""

from __future__ import annotations

import itertools
from typing import Any

from quoting.budget import DEFAULTS, PLAN_NAMES, shares
from quoting.ersd import KINDS, against_the_race, on_shape
from quoting.headline import PAPER_GAIN, PAPER_SPEED
from quoting.words import listed, numeral, percent, ratio, span

TOKENS, PATHS = ("single", "rrs", "rrsw", "kseq"), ("block", "traversal")  # what they decide about

Result = dict[str, Any]


def acceptance(result: Result) -> str:
    """SpecTr's claim about block efficiency, at its draft's quality."""
    ways = result["like-quality"]["ways"].values()
    most = [(way["single"], next(one for one in way["kseq"] if one["drafts"] == 8)) for way in ways]
    told = (
        f"{one['block_efficiency']:.2f} where one writes {single:.2f} "
        f"({one['to_single']:.2f} ± {one['to_single_standard_error']:.2f} times)"
        for single, one in most
    )
    gains = []
    for name, facts in result["pairs"].items():
        found = {one["plan"]: one["block_efficiency"] for one in facts["rows"]["1"]["cells"]}
        gains.append(f"{found['kseq K=8 L=8'] / found['single K=1 L=8']:.2f} with {models(name)}")
    better = f"With drafts as they are, in decodings: {listed(gains)}."
    return (
        "- *Eight paths of eight drafts write 4.0 tokens a pass where one writes 2.9* (SpecTr), "
        f"{PAPER_GAIN:.2f} times as many. Here, in simulated rounds, with the demo's draft made as weak as the "
        f"paper's in two ways: {listed(told)}. {better}"
    )


def speed(result: Result) -> str:
    """SpecTr's claim about the wall clock."""
    told, held, cells, slower = [], 0, 0, []
    for name, facts in result["pairs"].items():
        batch = facts["rows"]["1"]
        found = {one["plan"]: one for one in batch["cells"]}
        best = max(batch["cells"], key=lambda one: float(one["to_plain"]["median"]))
        told.append(
            f"{models(name)} {ratio(**found['kseq K=8 L=8']['to_plain'])}, where the best plan, `{best['plan']}`, has "
            f"{best['to_plain']['median']:.2f}"
        )
        for rows, other in facts["rows"].items():
            held, cells = held + other["predictions_that_hold"], cells + len(other["cells"])
            (most,) = (one for one in other["cells"] if one["plan"] == "kseq K=8 L=8")
            slower += [] if rows == "1" else [f"at {rows} rows {models(name)} {most['to_plain']['median']:.2f}"]
    ways = result["like-quality"]["ways"].values()
    foretold = [one for way in ways for one in way["on_gpu"] if (one["rows"], one["plan"]) == (1, "kseq:8:8")]
    return (
        f"- *With them it decodes {PAPER_SPEED} times as fast as plain decoding* (SpecTr, on an accelerator). On a "
        f"CPU of two cores, at one row: {listed(told)}; {listed(slower)}. A model of the costs of calls, which is told "
        f"how many passes a text took, comes within 15 %, or the range of the repeats, of {held} of {cells} measured "
        "speeds. Of a GPU, with the weak draft above, it foretells "
        f"{span(one['to_plain'] for one in foretold)} times where the draft is tiny and "
        f"{span(one['to_plain_with_larger_draft'] for one in foretold)} where it has 350 million parameters; nothing "
        "was measured on one."
    )


def models(name: str) -> str:
    """What the models of a result are called in a sentence."""
    return "the padded pair" if name == "padded" else name


def optimum(result: Result) -> str:
    """SpecTr's open question and its guarantee."""
    gap = max(result["transport"]["largest_difference"].values())
    two, last = (result["kseq_over_optimal"][at] for at in (1, -1))
    lowest = min(result["kseq_over_optimal"], key=lambda one: one["lowest"])
    return (
        "- *Has the optimal acceptance a closed form for several drafts?* (SpecTr asks.) It has, and equals the linear "
        f"program, over vocabularies of {numeral(result['transport']['vocabulary'])} tokens, to {gap:.0e}. *K-SEQ "
        f"keeps at least 1 - 1/e of it* (SpecTr): the least met here is {lowest['lowest']:.3f}, with "
        f"{numeral(lowest['k'])} drafts, and the least of a search over laws of two tokens goes from {two['c_k']:.3f} "
        f"for two drafts to {last['c_k']:.3f} for {last['k']}."
    )


def budget(result: Result) -> str:
    """Which rule is best where."""
    cells = [cell for one in result["settings"] for cell in one["budgets"].values()]
    block = sum(cell["best"] == "block" for cell in cells)
    kept = [
        (mean, least)
        for machine in result["settings"][0]["speeds"]
        for mean, least, *plan in shares(result, machine)
        if tuple(plan) == DEFAULTS[0]
    ]
    weak = [one for one in result["settings"] if one["draft"] == "worse" for one in one["budgets"].values()]
    wide = sum(not cell["rules"][cell["best"]]["shape"].startswith("1x") for cell in weak)
    return (
        "- *Which rule is best?* In simulated rounds of the small pair, for as many drafted tokens, one long path "
        f"under `block` writes most in {block} of {len(cells)} cases; with a weak draft several paths do in {wide} of "
        f"{len(weak)}. By modelled speeds the default plan, `{PLAN_NAMES[0]}`, keeps "
        f"{span((100 * mean for mean, _ in kept), '.0f')} % of the best plan's in the mean, and "
        f"{span((100 * least for _, least in kept), '.0f')} % where it keeps least."
    )


def races(result: Result) -> str:
    """ERSD's claim, its bound and its future work."""
    reached = [
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
        "- *Races match the rules that test ratios* (ERSD): those that decide token by token are ahead of races, by "
        f"more than chance, in {versus(result, TOKENS, 1)}, and behind in {versus(result, TOKENS, -1)}; "
        f"`block` and `traversal`, which decide over paths, are ahead in {versus(result, PATHS, 1)}. Its bound holds "
        f"in {sum(share <= 1 for share in reached)} of {len(reached)} cases, and "
        f"{span((100 * share for share in reached), '.0f')} % of it is reached. Trees that know the draft's "
        "entropy, which it leaves to later work, change "
        f"{percent(min(gains), '+.1f')} to {percent(max(gains), '+.1f')}."
    )


def versus(result: Result, rules: tuple[str, ...], sign: int) -> str:
    """Say in how many comparisons over each shape these rules are clearly ahead of the race, or behind it."""
    compared, told = against_the_race(result), list[str]()
    for shape, name in (("chain", "chains"), ("siblings", "siblings"), ("paths", "paths"), ("tree", "trees")):
        found = [one for line, one in compared if line["rule"] in rules and on_shape(line, shape)]
        told += [f"{found.count(sign)} of {len(found)} over {name}"] if sign in found else []
    return listed(told or ["no comparison"])


def newest(result: Result) -> str:
    """Where the newest rules stand."""
    found = result["exact"]["rules"]
    share = found["otm-block"]["tokens"] / result["exact"]["ceilings"]["iid"]
    gains = [cell["rules"][rule]["less"] for cell in result["pair"] for rule in ("kseq", "otm", "gbv")]
    return (
        "- *The optimum for independent paths* (SpecTr-GBV): the rule `otm-block`, made of its idea, has "
        f"{percent(share, '.1f')} of the most that any rule can for two paths of two drafts over random models of four "
        f"tokens, and, over paths of four drafts of the small pair, {span(gains)} tokens a round more than `kseq`, "
        "`otm` and `gbv` on the same drafts. It is in the package. UniVer stays in the benchmark; the "
        "formulas of public code are biased."
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
        f"{records['sizes'][-1]:,} records, within {percent(each['deviation'])}. From the smallest size "
        "measured to the largest, the time of a round, of which a part is the same at all sizes, grows with these "
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
