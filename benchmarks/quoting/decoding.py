"""Decoding with several plans, and with calls of one shape: ``decoding.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from quoting.words import listed, measured, numeral, percent, ratio, span, table

FLOAT32, INT4, ONE_SHAPE = "padded, float32", "padded to 146 million, int4", "demo-one-shape"


def plans(result: dict[str, Any]) -> str:
    """How the padded pair was decoded, and a line for each number of rows and plan."""
    models = result[FLOAT32]
    heads = ("rows", "plan", "tokens/s", "block efficiency", "to plain, with range", "in engines", "between drafts")
    rows = [
        (
            *(str(line["batch_size"]), line["plan"], f"{line['tokens_per_second']:.0f}"),
            f"{line['block_efficiency']:.2f}",
            "1" if line["plan"] == "plain" else to(line["to_plain"]),
            *(percent(line["in_engines"]), percent(line["between_drafts"])),
            f"{line['texts_of_plain']} of {models['prompts']}",
        )
        for line in models["lines"]
    ]
    return (
        "The padded pair of the demo (126 and 0.8 million parameters) with ONNX Runtime on the CPU in float32: "
        f"{how(models)}, medians of {numeral(models['repeats'])} interleaved repeats {measured(models)}, with the "
        "range of the ratio to plain decoding in the same repeat. Block efficiency is one plus the accepted drafts per "
        "pass of the target; accepted drafts that the end of a row cut off are counted. "
        '"In engines" is the share of the time that is spent in calls of the models, "between drafts" what drafting '
        'takes beside its calls, "texts" how many rows have the text of plain decoding.\n\n'
        + table((*heads, "texts"), rows)
    )


def findings(result: dict[str, Any]) -> str:
    """What the figures say of races, of the host, of the automatic plan, and of int4."""
    models, int4 = result[FLOAT32], result[INT4]
    sizes = list(dict.fromkeys(line["batch_size"] for line in models["lines"]))
    own = [line["texts_of_plain"] for line in chosen(models["lines"], "race", "auto")]
    several = chosen(models["lines"], "kseq K=4 L=4")
    return "\n\n".join(
        [
            f"Of the rows of `auto` and the races {sum(own)} of {len(own) * models['prompts']} have the text of plain "
            "decoding; the other rules keep the law and draw other texts. All that is not a call of a model, laws, "
            "drawing, selection, masks and the host, takes "
            + by_size(sizes, models["lines"], lambda lines: outside(chosen(lines, "race", "auto")))
            + f" with races, and {outside(chosen(models['lines'], 'kseq'))} with K-SEQ.",
            "Against the best fixed race, chosen after the fact, `auto` came to "
            + by_size(sizes, models["lines"], best_race)
            + ". More paths are accepted more often, and scoring 9 or 17 tokens instead of 5 takes a CPU "
            f"longer: K-SEQ with four paths of four writes {span(line['block_efficiency'] for line in several)} "
            "tokens in a pass and comes to "
            + by_size(sizes, several, lambda lines: f"{lines[0]['to_plain']['median']:.2f}")
            + " of plain decoding's speed.",
            f"In int4, with the target padded to 146 million parameters, {how(int4)} in "
            f"{numeral(int4['repeats'])} repeats at "
            f"{listed(f'{numeral(size)} rows' if size > 1 else 'one row' for size in batch_sizes(int4))} "
            f"{measured(int4)}, the share outside the engines is {outside(chosen(int4['lines'], 'race', 'auto'))} with "
            f"races, and `auto` came to {best_race(int4['lines'])} of the best race; of the rows of `auto` and the "
            f"races {sum(line['texts_of_plain'] for line in chosen(int4['lines'], 'race', 'auto'))} of "
            f"{len(chosen(int4['lines'], 'race', 'auto')) * int4['prompts']} have the text of plain decoding. There "
            "the kernel for a single row differs.",
            'A graph that makes all drafts of a round in one call would save at most what is "between drafts" here: '
            + by_size(sizes, chosen(models["lines"], "race K=1 L=4", "race K=1 L=8"), between)
            + ", for L = 4 and 8. It would have to do the same laws and draws inside, so that it was not built.",
        ]
    )


def one_shape(result: dict[str, Any]) -> str:
    """What calls of one shape keep of the speed."""
    models = result[ONE_SHAPE]
    kept = [f"{to(line['to_free'])} with `{line['plan']}` in calls of {line['call_shape']}" for line in models["lines"]]
    return (
        f"The demo pair, with texts of {models['prompt_tokens'] + models['tokens_per_prompt']} tokens in a bundle for "
        f"1,024, keeps of its tokens per second {listed(kept)} (medians and ranges of {numeral(models['repeats'])} "
        f"repeats {measured(models)})."
    )


def how(models: dict[str, Any]) -> str:
    """Return what was decoded."""
    return (
        f"{numeral(models['prompts'])} prompts of {models['prompt_tokens']} tokens, {models['tokens_per_prompt']} "
        f"tokens each at temperature {models['temperature']:g}"
    )


def batch_sizes(models: dict[str, Any]) -> list[int]:
    """Return the numbers of rows that were decoded together."""
    return list(dict.fromkeys(line["batch_size"] for line in models["lines"]))


def chosen(lines: Iterable[dict[str, Any]], *beginnings: str) -> list[dict[str, Any]]:
    """Return the lines of plans whose names begin so."""
    return [line for line in lines if line["plan"].startswith(beginnings)]


def by_size(sizes: list[int], lines: list[dict[str, Any]], tell: Callable[[list[dict[str, Any]]], str]) -> str:
    """Return what is told of the lines of each number of rows."""
    told = [(size, tell([line for line in lines if line["batch_size"] == size])) for size in sizes]
    return listed(f"{what} at {'one row' if size == 1 else f'{numeral(size)} rows'}" for size, what in told)


def outside(lines: list[dict[str, Any]]) -> str:
    """Return the share of the time outside the engines."""
    return f"{span((100 * (1 - line['in_engines']) for line in lines), '.0f')} per cent"


def between(lines: list[dict[str, Any]]) -> str:
    """Return the share of the time that drafting takes between its calls."""
    return f"{span((100 * line['between_drafts'] for line in lines), '.0f')} per cent"


def best_race(lines: list[dict[str, Any]]) -> str:
    """Return the speed of the automatic plan beside that of the best race."""
    (auto,) = chosen(lines, "auto")
    return to(auto["to_best_race"])


def to(one: dict[str, float]) -> str:
    """Return a ratio with its range."""
    return ratio(one["median"], one["least"], one["most"])


QUOTES = {
    "decoding": ("decoding.json", plans),
    "decoding-findings": ("decoding.json", findings),
    "one-shape": ("decoding.json", one_shape),
}
