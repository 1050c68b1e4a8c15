"""What SpecTr's readers ask for: ``readers.py``, and of its neighbours the split of wall clock and the optimum."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import hypot
from typing import Any

from quoting.words import counted, listed, measured, percent, ratio, span, table

SHOWN_DRAFTS = (1, 2, 4, 8, 16)
NAMES = {"optimal": "optimum", "single": "`single`"}
TOWARD = {"target": "the target", "unigram": "the unigram law"}
MEANS = {"timed": "timed calls", "weights": "the weights"}


def named(rule: str, paths: int | None = None) -> str:
    """A rule as the documents write it, with its number of paths."""
    return NAMES.get(rule) or f"`{rule}`" + (f", K = {paths}" if paths else "")


def two_tokens(result: dict[str, Any]) -> str:
    """Acceptance on laws of two tokens against the number of drafts."""
    found, rows = result["bernoulli"], []
    places = [found["drafts"].index(k) for k in SHOWN_DRAFTS]
    for family in found["families"]:
        for rule, alphas in family["curves"].items():
            rows.append([family["a"], family["b"], named(rule), *(f"{alphas[place]:.4f}" for place in places)])
    shares = list(shares_of_optimum(found, "kseq"))
    least, k, family = min(shares, key=lambda one: one[0])
    behind = max(1 - share for share, _, _ in shares_of_optimum(found, "otm"))
    return (
        f"Exact, {measured(found)}:\n\n{table(('a', 'b', 'rule', *(f'k = {k}' for k in SHOWN_DRAFTS)), rows)}\n\n"
        f"The optimum differs from its closed form by at most {found['largest_difference']:.0e}. `kseq` has at least "
        f"{percent(least, '.1f')} of it, at k = {k} with a = {family['a']} and b = {family['b']}; `otm` misses at most "
        f"{percent(behind, '.1f')} of it, and `kseq` is above `rrs` for every k from 2 to {found['drafts'][-1]}"
        f"{'' if always_above(found, 'kseq', 'rrs') else ' but for some'}."
    )


def shares_of_optimum(found: dict[str, Any], rule: str) -> Iterator[tuple[float, int, dict[str, Any]]]:
    """Yield a rule's acceptance over the optimum, with the number of drafts and the laws."""
    for family in found["families"]:
        pairs = zip(family["curves"][rule], family["curves"]["optimal"], strict=True)
        for k, (own, best) in zip(found["drafts"], pairs, strict=True):
            yield own / best, k, family


def always_above(found: dict[str, Any], rule: str, other: str) -> bool:
    """Whether a rule accepts more than another one for all laws and every number of drafts from 2 on."""
    pairs = [zip(one["curves"][rule][1:], one["curves"][other][1:], strict=True) for one in found["families"]]
    return all(own > less for pair in pairs for own, less in pair)


def paths(result: dict[str, Any]) -> str:
    """Tokens per round of every rule, by the number of paths."""
    found = result["blocks"]
    counts = [*found["by_paths"]]
    rules = list(dict.fromkeys(rule for lines in found["by_paths"].values() for rule in lines))
    rows = [
        [named(rule), *(with_error(found["by_paths"][count].get(rule)) for count in counts)]
        for rule in sorted(rules, key=lambda rule: -found["by_paths"][counts[-1]].get(rule, [0])[0])
    ]
    first, last = (found["by_paths"][count]["kseq"] for count in (counts[0], counts[-1]))
    return (
        f"The small pair at temperature 1, L = {found['length']}, {rounds(found)}, {measured(found)}. In brackets the "
        f"standard error of the mean over contexts:\n\n{table(('rule', *(f'K = {count}' for count in counts)), rows)}"
        f"\n\nFrom K = {counts[0]} to {counts[-1]}, `kseq` goes from {with_error(first)} to {with_error(last)}, of "
        f"{found['length'] + 1} tokens at most, which is {last[0] / first[0]:.2f} times as many.{falling(found)}"
    )


def falling(found: dict[str, Any]) -> str:
    """Which rules lose by more paths, by more than three standard errors of the difference."""
    first, *_, last = found["by_paths"].values()
    lost = [rule for rule, (mean, error) in last.items() if first[rule][0] - mean > 3 * hypot(error, first[rule][1])]
    return f" Fewer with the most paths than with one: {listed(map(named, lost))}." if lost else ""


def with_error(found: Iterable[float] | None) -> str:
    """A mean with its standard error, or nothing for a rule that does not take the tree."""
    return "{:.2f} ({:.2f})".format(*found) if found else ""


def rounds(found: dict[str, Any]) -> str:
    """How many rounds there were."""
    times = "once" if found["turns"] == 1 else f"{found['turns']} times"
    return f"behind {counted(found['contexts'], 'context')}, each drawn from {times}"


def wall_clock(result: dict[str, Any]) -> str:
    """Where the time of K-SEQ's decoding goes, of the headline's result."""
    models = result["pairs"]["padded"]
    cells = [one for one in models["rows"]["1"]["cells"] if one["plan"].startswith("kseq") and one["length"] == 4]
    phases = [*cells[0]["shares"]]
    rows = [
        [
            str(one["drafts"]), f"{one['tokens_per_second']:.0f}", f"{one['block_efficiency']:.2f}",
            ratio(*(one["to_plain"][name] for name in ("median", "least", "most"))),
            *(percent(one["shares"][phase]) for phase in phases),
        ]
        for one in cells
    ]  # fmt: skip
    heads = ("K", "tokens/s", "block efficiency", "to plain, with range", *phases)
    return (
        f"The padded pair with ONNX Runtime in float32, one row, `kseq` with L = 4, prompts of "
        f"{models['prompt_tokens']} tokens and {models['tokens_per_prompt']} written, {measured(models)}:\n\n"
        + table(heads, rows)
    )


def quality(result: dict[str, Any]) -> str:
    """Tokens per round by the quality of the draft."""
    found = result["quality"]
    rules = [*found["lines"][0]["tokens_per_round"]]
    rows = [
        [
            f"{percent(one['weight'])} {TOWARD[one['toward']]}" if one["weight"] else "as it is",
            f"{one['total_variation']:.3f}", f"{1 - one['total_variation']:.3f}",
            *(with_error(one["tokens_per_round"][rule]) for rule in rules),
            f"{one['tokens_per_round']['kseq'][0] / one['tokens_per_round']['single'][0]:.2f}",
        ]
        for one in sorted(found["lines"], key=lambda one: one["total_variation"])
    ]  # fmt: skip
    heads = ("blended with", "TV", "1 - TV", *(named(rule, 4) for rule in rules), "`kseq` to `single`")
    best = max(rows, key=lambda row: float(row[-1]))
    return (
        f"L = {found['length']}, {rounds(found)}, {measured(found)}:\n\n{table(heads, rows)}\n\n"
        f"What four paths of `kseq` add to one is most where TV is {best[1]}: {best[-1]} times the tokens of a round."
    )


def sizes(result: dict[str, Any]) -> str:
    """Tokens per round and modelled speed by the size of the draft."""
    found = result["sizes"]
    rules = [*found["lines"][0]["tokens_per_round"]]
    rows = [
        [
            one["draft"], f"{one['cost']['parameters'] / 1e6:.2f}", f"{one['total_variation']:.3f}",
            f"{1 - one['total_variation']:.3f}",
            *(with_error(one["tokens_per_round"][rule]) for rule in rules),
            *(f"{one['cost']['timed'][0]:.3f} / {one['cost']['weights']:.3f}",),
            *(" / ".join(f"{one['speed'][kind][rule]:.2f}" for kind in MEANS) for rule in ("single", "kseq")),
        ]
        for one in found["lines"]
    ]  # fmt: skip
    heads = (
        "hidden x layers", "M parameters", "TV", "1 - TV", *(named(rule, 4) for rule in rules), "c", "speed, `single`",
        "speed, `kseq`, K = 4",
    )  # fmt: skip
    schedule = found["lessons"]["schedule"]
    return (
        f"The padded target has {found['target']['parameters'] / 1e6:.0f} million parameters, and its call took "
        f"{found['target']['milliseconds']:.1f} ms, {measured(found, 'onnxruntime')}. Drafts were trained for "
        f"{schedule['steps']} steps of {schedule['batch']} texts. L = {found['length']}, {rounds(found)}; c and speed "
        f"by timed calls / by weights:\n\n{table(heads, rows)}\n\n{best_sizes(found)}"
    )


def best_sizes(found: dict[str, Any]) -> str:
    """Which of the drafts that were trained alike is best by each of the costs, and which accepts most."""
    alike = found["lines"][:-1]
    nearest, largest = (
        choose(alike, key=key)["draft"]
        for choose, key in ((min, lambda one: one["total_variation"]), (max, lambda one: one["cost"]["parameters"]))
    )
    best: dict[str, list[str]] = {}
    for kind, words in MEANS.items():
        for rule in ("single", "kseq"):
            fastest = max(alike, key=lambda one: one["speed"][kind][rule])["draft"]
            best.setdefault(fastest, []).append(f"`{rule}` by {words}")
    cases = {draft: "either rule by either cost" if len(best) == 1 else listed(some) for draft, some in best.items()}
    said = "; ".join(f"{draft} is fastest with {some}" for draft, some in cases.items())
    edge = " The best may be larger than any that was trained." if largest in best else ""
    return f"Of those trained alike, {nearest} is nearest to the target; {said}.{edge}"


def vocabularies(result: dict[str, Any]) -> str:
    """Time of a selection against the vocabulary."""
    found = result["selection"]
    times = {(one["rule"], one["V"]): one["select_ms"] for one in found["lines"]}
    largest, rules = max(size for _, size in times), found["powers"]
    columns = sorted({size for _, size in times})
    rows = [
        [
            named(rule), *(f"{times[rule, size]:.1f}" for size in columns),
            *(f"{found['powers'][rule][kind]:.2f}" for kind in ("fitted", "last")),
        ]
        for rule in sorted(rules, key=lambda rule: times[rule, largest])
    ]  # fmt: skip
    heads = ("rule", *(f"V = {size:,}" for size in columns), "power, all", "power, last two")
    return (
        f"Milliseconds of a selection for {found['rows']} rows, K = {found['paths']} paths (one for `single` and "
        f"`block`) of L = {found['length']}, on one thread, {measured(found)}:\n\n{table(heads, rows)}\n\n"
        f"The power of V that fits all sizes best is {span(one['fitted'] for one in rules.values())}, that between "
        f"the two largest {span(one['last'] for one in rules.values())}."
    )


def wrong_drafts(result: dict[str, Any]) -> str:
    """What rules accept of wrong drafts, and whether the text keeps the target's law."""
    found = result["odd"]
    lines = {(one["rule"], one["draft"]): one for one in found["lines"]}
    rules = list(dict.fromkeys(rule for rule, _ in lines))
    cells = [[f"{lines[rule, draft]['acceptance']:.3f}" for rule in rules] for draft in found["words"]]
    rows = [[words, *cell] for words, cell in zip(found["words"].values(), cells, strict=True)]
    least = min(found["lines"], key=lambda one: one["p_value"])
    chance = 1 - (1 - least["p_value"]) ** len(lines)
    far = max(one["total_variation"] / one["expected_total_variation"] for one in found["lines"])
    control = found["control"]
    return (
        f"A Zipf law over {found['support']} of {found['vocabulary']} tokens, {found['rounds']:,} rounds of "
        f"{found['paths']} paths (one for `single` and `block`) of {found['length']} drafts for each cell, the share "
        f"of rounds that accept a draft:\n\n{table(('draft', *map(named, rules)), rows)}\n\n"
        f"The least of the {len(lines)} p-values is {least['p_value']:.2g} (`{least['rule']}`, "
        f"{found['words'][least['draft']]}); of so many independent ones the least would be as small with probability "
        f"{chance:.2f}. The total variation between the texts of two tokens and their law is at most {far:.2f} times "
        "what chance makes of it on average. The control, `kseq` that is told a wrong law of its draft, has a total "
        f"variation of {control['total_variation']:.3f} and a p-value of {control['p_value']:.2g}."
    )


def optimum(result: dict[str, Any]) -> str:
    """How near the closed form of the optimum is to the linear program."""
    found = result["transport"]
    numbers = listed(f"{gap:.0e} for k = {k}" for k, gap in found["largest_difference"].items())
    return (
        f"Against the linear program over all tuples of drafts, on {found['pairs']} random pairs of laws of "
        f"{found['vocabulary']} tokens, it differs by at most {numbers}."
    )


QUOTES = {
    "readers-two-tokens": ("readers.json", two_tokens),
    "readers-paths": ("readers.json", paths),
    "readers-wall-clock": ("headline.json", wall_clock),
    "readers-quality": ("readers.json", quality),
    "readers-sizes": ("readers.json", sizes),
    "readers-vocabularies": ("readers.json", vocabularies),
    "readers-wrong-drafts": ("readers.json", wrong_drafts),
    "readers-optimum": ("acceptance.json", optimum),
}
