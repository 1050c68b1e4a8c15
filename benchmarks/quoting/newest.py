"""The newest rules: from `newest.json` to Markdown."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quoting.words import table

Result = dict[str, Any]
DRAWINGS = {"iid": "independent", "without-replacement": "distinct", "top": "most probable, one drawn"}
PUBLIC = ("spectr-gbv", "spectr-gbv-residual")


def exact(result: Result) -> str:
    """Every rule beside the most that its drafts allow."""
    found = result["exact"]
    rows = []
    for rule, one in found["rules"].items():
        most = found["ceilings"][one["drawing"]]
        lossless = one["distance"] < 1e-9
        share = f"{100 * one['tokens'] / most:.1f} %" if lossless else "biased"
        apart = "none" if lossless else f"{one['distance']:.3f}"
        rows.append((f"`{rule}`", DRAWINGS[one["drawing"]], f"{one['tokens']:.3f}", share, apart))
    ceilings = ", ".join(f"{found['ceilings'][name]:.3f} ({words})" for name, words in DRAWINGS.items())
    largest = max(one["distance"] for rule, one in found["rules"].items() if rule not in PUBLIC)
    heads = ("rule", "siblings", "tokens per round", "of the most possible", "distance from the target's law")
    return (
        f"{table(heads, rows)}\n\n"
        f"The most possible is {ceilings}, as the mean over {found['models']} pairs of random models.\n"
        f"The largest distance of a rule that is said to be lossless is {largest:.1e}."
    )


def public(result: Result) -> str:
    """How far the formulas of public code are from the target's law."""
    found, paired = (result["exact"]["rules"][rule] for rule in PUBLIC)
    return (
        f"As found, the text is up to {found['distance']:.3f} from the target's law in total variation, and "
        f"{found['one_token']:.3f} for rounds of one token. With the correction that the acceptance would need it is "
        f"{paired['distance']:.3f} and {paired['one_token']:.3f}. The drafts that this accepts, {found['tokens']:.3f} "
        f"tokens per round, are fewer than those of `otm-block`, {result['exact']['rules']['otm-block']['tokens']:.3f}."
    )


def pair(result: Result) -> str:
    """Tokens per round of the demo pair, by situation and number of paths."""
    cells = result["pair"]
    rules = list(cells[0]["rules"])
    tokens, gains = [], []
    for cell in cells:
        name, found = f"{cell['situation']}, {cell['paths']}", cell["rules"]
        most = max(one["tokens"] for one in found.values())
        shown = (f"{found[rule]['tokens']:.2f}" for rule in rules)
        tokens.append((name, *(f"**{one}**" if float(one) >= round(most, 2) else one for one in shown)))
        less = (found[rule] for rule in ("kseq", "otm", "gbv"))
        gains.append((name, *(f"{one['less']:.2f} ± {one['less_error']:.2f}" for one in less)))
    errors = [one["error"] for cell in cells for one in cell["rules"].values()]
    return (
        table((f"models, paths of {result['length']}", *(f"`{rule}`" for rule in rules)), tokens)
        + f"\n\n{result['rounds']} rounds for a cell; standard errors are at most {max(errors):.2f}. On the very same "
        "drafts `otm-block` accepts more by:\n\n"
        + table(("models, paths", "than `kseq`", "than `otm`", "than `gbv`"), gains)
    )


def times(result: Result) -> str:
    """Milliseconds of selection for each row."""
    rules = ("kseq", "traversal", "gbv", "otm", "otm-block")
    cells = [cell for cell in result["pair"] if cell["situation"] == result["pair"][0]["situation"]]
    rows = [
        (f"{cell['paths']} paths of {result['length']}", *(f"{cell['rules'][rule]['ms']:.1f}" for rule in rules))
        for cell in cells
    ]
    return table(("milliseconds for a row", *(f"`{rule}`" for rule in rules)), rows)


def delayed(result: Result) -> str:
    """Trees with a stem, at equal drafts and at equal depth."""
    rules = list(result["delayed"][0]["rules"])
    places = ("situation", "equal", "stem", "depth", "drafts")
    rows = [
        (*(str(line[name]) for name in places), *(f"{line['rules'][rule]['tokens']:.2f}" for rule in rules))
        for line in result["delayed"]
    ]
    errors = [one["error"] for line in result["delayed"] for one in line["rules"].values()]
    inner, cases = inner_stems(result["delayed"])
    return (
        f"{table(('models', *places[1:], *(f'`{rule}`' for rule in rules)), rows)}\n\n"
        f"Standard errors are at most {max(errors):.2f}. For each rule, draft and what is equal, a stem between "
        f"none and the longest writes most in {inner} of {cases} cases."
    )


def inner_stems(lines: list[Result]) -> tuple[int, int]:
    """In how many cases a rule writes most with a stem between none and the longest, and of how many."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for line in lines:
        groups.setdefault((line["situation"], line["equal"]), []).append(line)
    best = [
        max(range(len(group)), key=[float(line["rules"][rule]["tokens"]) for line in group].__getitem__)
        / (len(group) - 1)
        for group in groups.values()
        for rule in group[0]["rules"]
    ]
    return sum(0 < place < 1 for place in best), len(best)


QUOTES: dict[str, tuple[str, Callable[[Result], str]]] = {
    "newest-exact": ("newest.json", exact),
    "newest-public": ("newest.json", public),
    "newest-pair": ("newest.json", pair),
    "newest-times": ("newest.json", times),
    "newest-delayed": ("newest.json", delayed),
}
