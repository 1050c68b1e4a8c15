"""Races over shapes, the bound of their tokens, and trees by the draft's entropy: ``ersd.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quoting.comparisons import signs
from quoting.words import measured, numeral, table

SHOWN = 16  # drafted tokens in the tables that have no room for all
OTHERS = ("rrs", "rrsw", "kseq", "traversal", "block", "gbv", "otm")
ALONE = ("rrs", "rrsw", "kseq")  # which a chain makes the rule single

KINDS = {"root": "by the root", "node": "by every node", "above": "as many on average"}


def shapes(result: dict[str, Any]) -> str:
    """How it was measured, and races beside the other rules on every shape."""
    sizes = result["sizes"]
    drafts = min(max(sizes["drafts"]), SHOWN)
    return (
        f"Tokens per round of {drafts} drafted tokens on the demo pair as it is, {measured(result, 'torch')}: "
        f"{sizes['turns'] * sizes['contexts']} rounds behind {sizes['contexts']} contexts, with standard errors by "
        "context, and what other rules accept more or less than the race on the same contexts. In the rows of trees "
        "every rule has the tree of its own rank law, but `kseq` that of `rrs`.\n\n"
        + table(("temperature", "shape", "race", *(f"`{rule}`" for rule in OTHERS)), shape_rows(result, drafts))
        + f"\n\n{best(result)}"
    )


def shape_rows(result: dict[str, Any], drafts: int) -> Iterator[list[str]]:
    """Yield a line for each temperature and shape."""
    for temperature, found in sorted(result["settings"].items()):
        lines = [line for line in found["compared"] if line["drafts"] == drafts]
        for shape in ("chain", "siblings", "paths", "tree"):
            by_rule = {line["rule"]: line for line in lines if on_shape(line, shape)}
            if shape == "chain":
                by_rule |= {rule: by_rule["single"] for rule in ALONE} | {"traversal": by_rule["block"]}
            gaps = [f"{pair(by_rule[rule]['to_race'], '+.2f')}" if rule in by_rule else "" for rule in OTHERS]
            yield [temperature, shape, pair(by_rule["race"]["tokens"]), *gaps]


def on_shape(line: dict[str, Any], shape: str) -> bool:
    """Whether a line is of this shape; of trees, the one that is shown of each rule."""
    own = {"kseq": "rrs"}.get(line["rule"], line["rule"])
    return bool(line["shape"] == (f"tree of {own}" if shape == "tree" else shape))


def pair(value: list[float], form: str = ".2f") -> str:
    """A mean and its standard error."""
    return f"{value[0]:{form}} ± {value[1]:.2f}"


def against_the_race(result: dict[str, Any]) -> list[tuple[dict[str, Any], int]]:
    """Every line of another rule, with 1 if it is ahead of the race, -1 if behind, and 0 where that may be chance."""
    lines = [line for found in result["settings"].values() for line in found["compared"] if line["rule"] != "race"]
    return list(zip(lines, signs([line["to_race"] for line in lines]), strict=True))


def best(result: dict[str, Any]) -> str:
    """How often a rule is ahead of the race, and how often behind."""
    compared, rows = against_the_race(result), []
    for rule in ("rrs", "rrsw", "kseq", "traversal"):
        found = [
            sign
            for line, sign in compared
            if line["rule"] == rule and (line["shape"] in ("siblings", "paths") or on_shape(line, "tree"))
        ]
        rows.append([f"`{rule}`", str(found.count(1)), str(found.count(-1)), str(len(found))])
    return (
        "Over siblings, paths and trees, at all settings and numbers of drafts, a rule is ahead of the race, or behind "
        f"it, by more than chance so often, by Holm's test over all {len(compared)} comparisons, after which any of "
        "these is wrong with a probability of at most 5 %:\n\n" + table(("rule", "ahead", "behind", "of"), rows)
    )


def bound(result: dict[str, Any]) -> str:
    """The bound beside what was measured and what the rank law foretells."""
    rows = []
    for temperature, found in sorted(result["settings"].items()):
        for drafts, most in found["bound"]["tokens"].items():
            (line,) = (
                one
                for one in found["compared"]
                if (one["shape"], one["rule"], str(one["drafts"])) == ("tree of race", "race", drafts)
            )
            entropy = f"{found['bound']['entropy']:.2f}"
            rows.append([
                temperature, entropy, drafts, str(line["depth"]), pair(line["tokens"]), f"{line['expected']:.2f}",
                f"{most:.1f}", f"{100 * line['tokens'][0] / most:.0f} %",
            ])  # fmt: skip
    heads = (
        "temperature",
        "H[R], nats",
        "drafts",
        "depth",
        "tokens per round",
        "foretold",
        "bound",
        "share of the bound",
    )
    return table(heads, rows)


def aware(result: dict[str, Any]) -> str:
    """Trees by the draft's entropy beside trees that do not depend on it."""
    rows = []
    for temperature, found in sorted(result["settings"].items()):
        for line in found["aware"]["lines"]:
            base = line["tokens"]["stateless"]
            shown = [share(line["to_stateless"][name], base[0]) for name in ("frequent", "root", "node", "above")]
            depth = f"{line['trees']['stateless']['depth']} and {line['node_depth']:.1f}"
            drafts = f"{line['above_drafts']:.1f}"
            if line["drafts"] == max(result["sizes"]["drafts"]):  # no row has grown more drafts than these
                shown[-1] = drafts = ""
            rows.append([temperature, str(line["drafts"]), pair(base), *shown, drafts, depth])
    heads = (
        *("temperature", "drafts", "stateless tree", "frequent paths", "by the root", "by every node"),
        *("as many on average", "which are", "depths"),
    )
    sizes = result["sizes"]
    return (
        f"Tokens per round of races with the stateless tree over {sizes['text_turns'] * sizes['contexts']} rounds, and "
        "what other trees gain or lose, in per cent of it, with standard errors by context. The depths are those of "
        f"the stateless tree, and of the trees by every node on average:\n\n{table(heads, rows)}\n\n"
        f"The mean over the {numeral(len(result['settings']))} settings, and in how many of them a tree is ahead and "
        f"behind by more than chance, by Holm's test over all of them:\n\n{gains(result)}\n\n{trees(result)}"
    )


def gains(result: dict[str, Any]) -> str:
    """What each kind of tree gains over all settings, by number of drafts, and the most of it."""
    most = max(result["sizes"]["drafts"])
    compared = [
        (name, line)
        for found in result["settings"].values()
        for line in found["aware"]["lines"]
        for name in KINDS
        if name != "above" or line["drafts"] < most  # no row has grown more drafts than these
    ]
    sure = signs([line["to_stateless"][name] for name, line in compared])
    rows, means = [], []
    for drafts in result["sizes"]["drafts"]:
        cells = []
        for name, title in KINDS.items():
            places = [place for place, (kind, line) in enumerate(compared) if (kind, line["drafts"]) == (name, drafts)]
            if not places:
                cells.append("")
                continue
            lines = [compared[place][1] for place in places]
            gaps = [100 * line["to_stateless"][name][0] / line["tokens"]["stateless"][0] for line in lines]
            means.append((sum(gaps) / len(gaps), drafts, title))
            found = [sure[place] for place in places]
            cells.append(f"{means[-1][0]:+.1f} % ({found.count(1)}, {found.count(-1)})")
        rows.append([str(drafts), *cells])
    gain, drafts, title = max(means)
    return f"{table(('drafts', *KINDS.values()), rows)}\n\nThe most is {gain:+.1f} %, {title} with {drafts} drafts."


def share(gap: list[float], base: float) -> str:
    """A difference and its standard error in per cent."""
    return f"{100 * gap[0] / base:+.1f} ± {100 * gap[1] / base:.1f}"


def trees(result: dict[str, Any]) -> str:
    """The trees of every bin at temperature 1, and how often a first child is accepted there."""
    found = result["settings"]["1.0"]["aware"]
    drafts = min(max(result["sizes"]["drafts"]), SHOWN)
    (line,) = (line for line in found["lines"] if line["drafts"] == drafts)
    edges = [0.0, *found["edges"]]
    rows = [
        [
            f"from {edge:.2f}",
            f"{law[0]:.3f}",
            f"{law[1]:.3f}",
            str(tree["depth"]),
            str(tree["root"]),
            str(tree["widest"]),
        ]
        for edge, law, tree in zip(edges, found["laws"], line["by_bin"], strict=True)
    ]
    heads = ("entropy of the draft's law, nats", "P(0)", "P(1)", "depth", "children of the root", "widest level")
    title = f"The rank law by entropy at temperature 1, and the trees of {drafts} drafts by the root's:"
    return f"{title}\n\n{table(heads, rows)}"


QUOTES = {
    "ersd_shapes": ("ersd.json", shapes),
    "ersd_bound": ("ersd.json", bound),
    "ersd_aware": ("ersd.json", aware),
}
