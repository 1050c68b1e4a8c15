"""How cost grows: ``growth.py``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from quoting.words import listed, measured, percent, ratio, table

Part = Mapping[str, Any]


def number(value: float) -> str:
    """A number to three digits, whole where it is large."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(curve: Part) -> float:
    """The largest range of the repeats at a size, as a share of their median."""
    sizes = zip(curve["median"], curve["least"], curve["most"], strict=True)
    return max((most - least) / middle for middle, least, most in sizes)


def line(curve: Part, sizes: Sequence[int]) -> str:
    """The line a + b n of a curve, of large sizes per thousand, and how far it is off."""
    fit, many = curve["line"], 1000 if sizes[-1] > 1000 else 1
    sign, each = "-" if fit["each"] < 0 else "+", number(many * abs(fit["each"]))
    unit = "n" if many == 1 else "n / 1000"
    return f"{number(fit['start'])} {sign} {each} {unit}, within {percent(fit['deviation'])}"


def last_power(curve: Part, sizes: Sequence[int]) -> float:
    """The slope between the two largest sizes on logarithmic scales."""
    below, above = curve["median"][-2:]
    return math.log(above / below) / math.log(sizes[-1] / sizes[-2])


def curves(part: Part, unit: str, names: Iterable[str]) -> str:
    """A table of some curves: medians over the sizes, the largest range of repeats, and how they grow."""
    rows, sizes = [], part["sizes"]
    for name in names:
        curve = part["curves"][name]
        spreads = [percent(spread(curve))] if part["repeats"] > 1 else []
        powers = f"{curve['power']:.2f}", f"{last_power(curve, sizes):.2f}"
        rows.append((name, *map(number, curve["median"]), *spreads, *powers, line(curve, sizes)))
    ranges = ["range, at most"] if part["repeats"] > 1 else []
    return table((unit, *(f"{size:,}" for size in sizes), *ranges, "power", "at the end", "a + b n"), rows)


def power(part: Part, name: str) -> str:
    """The power of a curve."""
    return f"{part['curves'][name]['power']:.2f}"


def powers(part: Part, prefix: str) -> str:
    """The powers of the curves whose names begin so: "one 1.00 and other 0.50"."""
    return listed(
        f"{name.removeprefix(prefix)} {power(part, name)}" for name in part["curves"] if name.startswith(prefix)
    )


def ends(part: Part, name: str) -> tuple[float, float]:
    """The medians at the smallest and the largest size."""
    median = part["curves"][name]["median"]
    return median[0], median[-1]


def records(result: Part) -> str:
    """Runs without models."""
    part = result["records"]
    fit, (least, most) = part["curves"]["seconds of the run"]["line"], ends(part, "MiB, largest")
    memory = part["curves"]["MiB, largest"]["power"]
    return (
        f"Whole runs without models, {measured(part)}: {number(fit['start'])} seconds to start and to end, and "
        f"{number(1e6 * fit['each'])} microseconds for each record, within {percent(fit['deviation'])}; from "
        f"{part['sizes'][0]:,} to {part['sizes'][-1]:,} records memory grows with the power {memory:.3f}, from "
        f"{number(least)} to {number(most)} MiB.\n\n" + curves(part, "records", part["curves"])
    )


def context(result: Part) -> str:
    """Texts of more and more tokens."""
    part, per_round = result["context"], result["rows"]["tokens_per_round"]
    sizes, plain = part["sizes"], part["curves"]["pass over 1"]["line"]
    speeds = []
    for plan, tokens in per_round.items():
        times = part["curves"][f"round, {plan}"]["median"]
        speeds.append((plan, f"{tokens:.2f}", *(number(1e3 * tokens / ms) for ms in times)))
    return (
        f"Behind texts of {sizes[0]:,} to {sizes[-1]:,} tokens at one row, {measured(part)}, in milliseconds. Reading "
        f"grows with the power {power(part, 'reading')}, rounds with these: {powers(part, 'round, ')}. A plain pass "
        f"takes {number(plain['start'])} ms, and {number(1e3 * plain['each'])} ms for every thousand tokens before "
        f"it.\n\n{curves(part, 'tokens of the text', part['curves'])}\n\n"
        "Tokens per second, if a round writes as many tokens as it does behind short prompts, in the table of rows:\n\n"
        + table(("plan", "tokens per round", *(f"{size:,}" for size in sizes)), speeds)
    )


def vocabulary(result: Part) -> str:
    """Wider vocabularies."""
    part = result["vocabulary"]
    sizes, (low, high) = part["sizes"], ends(part, "rest, of the round")
    shown = [name for name in part["curves"] if name != "rest, of the round"]
    return (
        f"With {sizes[0]:,} to {sizes[-1]:,} tokens in the vocabulary and eight rows, {measured(part)}, "
        "in milliseconds. Drawing drafts and selecting grow with the powers "
        f"{powers(part, 'with drawing, ')}, a round of kseq with {power(part, 'round')}. What is neither drafting nor "
        f"the pass takes {percent(low, '.1f')} of that round at the smallest vocabulary and {percent(high, '.1f')} at "
        f"the largest.\n\n{curves(part, 'tokens of the vocabulary', shown)}"
    )


def rows(result: Part) -> str:
    """More rows."""
    part = result["rows"]
    per_round, sizes = part["tokens_per_round"], part["sizes"]
    times = [name for name in part["curves"] if name.startswith("round, ")]
    speeds = []
    for name in times:
        plan = name.removeprefix("round, ")
        pairs = zip(sizes, part["curves"][name]["median"], strict=True)
        speeds.append((f"{plan}, tokens/s", *(number(1e3 * per_round[plan] * count / ms) for count, ms in pairs)))
        if to_plain := part["curves"].get(f"round to plain's, {plan}"):
            shares = zip(*(to_plain[kind] for kind in ("median", "most", "least")), strict=True)
            speeds.append(
                (f"{plan}, to plain", *(ratio(*(per_round[plan] / one for one in share)) for share in shares))
            )
    drafted = listed(f"{count:.2f} ({plan})" for plan, count in per_round.items() if plan != "plain")
    return (
        f"From {sizes[0]} to {sizes[-1]} rows, all filled, {measured(part)}: milliseconds of a round. A row writes "
        f"{drafted} tokens in a round. Rounds grow with the powers "
        f"{powers(part, 'round, ')}.\n\n"
        + curves(part, "rows", times)
        + "\n\nTokens per second, and the ratio to plain decoding in the same repeat with its range:\n\n"
        + table(("rows", *map(str, sizes)), speeds)
    )


def shape(part: Part, what: str) -> str:
    """Rounds over one size of their drafts."""
    first, last = part["sizes"][0], part["sizes"][-1]
    told = []
    for batch in ("1 row", "8 rows"):
        (_, total), (_, rest) = ends(part, f"round, {batch}"), ends(part, f"rest, {batch}")
        (_, drafting), (_, scored) = ends(part, f"drafting, {batch}"), ends(part, f"pass, {batch}")
        told.append(
            f"At {batch} a round grows with the power {power(part, f'round, {batch}')} from {first} to {last}; of the "
            f"longest, {percent(scored / total)} are the pass, {percent(drafting / total)} drafting and "
            f"{percent(rest / total)} the rest."
        )
    return f"{what}, {measured(part)}, in milliseconds. {' '.join(told)}\n\n" + curves(part, "n", part["curves"])


def length(result: Part) -> str:
    """Longer drafts."""
    return shape(result["length"], "K-SEQ with one path of n tokens")


def drafts(result: Part) -> str:
    """More drafts."""
    return shape(result["drafts"], "K-SEQ with n paths of four tokens")


QUOTES = {
    f"growth-{write.__name__}": ("growth.json", write)
    for write in (records, context, vocabulary, rows, length, drafts)
}  # fmt: skip
