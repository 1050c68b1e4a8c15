"""Sources of drafts on four kinds of work: ``drafts.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from quoting.words import counted, measured, numeral, percent, ratio, table

PLANS = ("lookup", "corpus", "draft", "auto")
SOURCES = {
    "rewrite": ("rewriting, correcting, extracting from a text in the prompt", "`lookup`: the prompt has the answer"),
    "code": ("editing code", "`lookup` for what stays, a draft for what is new"),
    "template": (
        "answers of one form over many records",
        "`corpus`: the answers before; `--corpus` from the first row on",
    ),
    "prose": ("free prose", "a draft; texts hold little of it"),
}


def tables(results: dict[str, Any]) -> str:
    """A table for each pair of models, and what all of them have in common."""
    parts = [text for name, facts in results.items() for text in (heading(name, facts), figures(facts))]
    lines = [(cell, one) for facts in results.values() for cell in facts["cells"] for one in cell["plans"].values()]
    equal = sum(one["texts_of_plain"] for _, one in lines)
    rows = sum(cell["plans"]["none"]["texts_of_plain"] for cell, _ in lines)
    longest = max(one["looking_up"] for _, one in lines)
    closing = (
        f"Of the rows of all plans {equal:,} of {rows:,} have the text of plain decoding. Looking up took at most "
        f"{percent(longest, '.1f')} of the time."
    )
    return "\n\n".join([*parts, closing])


def heading(name: str, facts: dict[str, Any]) -> str:
    """What was decoded how often with a pair, and where."""
    return (
        f"**{name}**, {counted(facts['prompts'], 'prompt')} for one row, {facts['tokens']} tokens at most, "
        f"{numeral(facts['repeats'])} repeats, {measured(facts)}:"
    )


def figures(facts: dict[str, Any]) -> str:
    """A line for each work, temperature and number of rows."""
    plans = [plan for plan in PLANS if any(plan in cell["plans"] for cell in facts["cells"])]
    return table(("work", *plans), rows_of(facts["cells"], plans))


def rows_of(cells: list[dict[str, Any]], plans: list[str]) -> Iterator[list[str]]:
    """The ratio to plain decoding with its range, and the tokens that a pass writes."""
    for cell in cells:
        where = f"{cell['work']}, {counted(cell['rows'], 'row')}, temperature {cell['temperature']:g}"
        found = [cell["plans"].get(plan) for plan in plans]
        yield [where, *(f"{ratio(*one['to_plain'])}, {one['tokens_per_pass']:.1f}" if one else "-" for one in found)]


def advice(results: dict[str, Any]) -> str:
    """Where drafts can come from in each work, and what the sources gave the first pair there."""
    pair = next(iter(results.values()))
    cells = {cell["work"]: cell["plans"] for cell in pair["cells"] if (cell["rows"], cell["temperature"]) == (1, 0)}
    rows = [(*told, *(f"{cells[work][plan]['to_plain'][0]:.1f}" for plan in PLANS)) for work, told in SOURCES.items()]
    return table(("work", "where drafts can come from", *(f"`{plan}`" for plan in PLANS)), rows)


QUOTES = {"drafts": ("drafts.json", tables), "drafts-advice": ("drafts.json", advice)}
