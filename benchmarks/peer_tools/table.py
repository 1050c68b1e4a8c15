"""The results as markdown: a table of speeds for each pair, why figures are absent, and how far the laws are off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# Lines of the tables: what they are called, and the tool and plan they show.
LINES = {
    "spectr, plain": ("spectr", "plain"),
    "spectr, auto": ("spectr", "auto"),
    "spectr, best race of three": ("spectr", "race"),
    "spectr, best kseq of two": ("spectr", "kseq"),
    "transformers": ("transformers", "plain"),
    "transformers, assisted": ("transformers", "assisted"),
    "onnxruntime-genai": ("onnxruntime-genai", "plain"),
    "OpenVINO GenAI": ("OpenVINO GenAI", "plain"),
    "OpenVINO GenAI with the draft, L=4": ("OpenVINO GenAI", "draft 4"),
    "llama.cpp": ("llama.cpp", "plain"),
}


def tables(cells: Sequence[dict[str, Any]]) -> str:
    """Return a table for each pair of the cells."""
    return "\n\n".join(_table(pair, cells) for pair in dict.fromkeys(cell["pair"] for cell in cells))


def _table(pair: str, cells: Sequence[dict[str, Any]]) -> str:
    own = [cell for cell in cells if cell["pair"] == pair]
    heads = [f"{cell['precision']}, {cell['rows']} row{'s' if cell['rows'] > 1 else ''}" for cell in own]
    rows = [[f"**{pair}**", *heads], ["---"] * (len(own) + 1)]
    rows += [[name, *(_shown(_line(cell, *key)) for cell in own)] for name, key in LINES.items()]
    notes = sorted(
        f"- {line['tool']} {line['plan']}, {head}: {note}"
        for cell, head in zip(own, heads, strict=True)
        for line in cell["lines"]
        if (note := _note(line, cell["rounds"]))
    )
    return "\n\n".join(filter(None, [_lined(rows), "\n".join(notes), _lined(_laws(own))]))


def _laws(cells: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Return by how much each tool's law differs from the original's in each precision."""
    by_precision = {cell["precision"]: cell for cell in reversed(cells)}
    heads = ["mean difference of log-probabilities from float32's", *reversed(by_precision)]
    rows = [heads, ["---"] * len(heads)]
    for tool in dict.fromkeys(tool for tool, _ in LINES.values()):
        laws = [_line(cell, tool, "plain").get("law") for _, cell in reversed(by_precision.items())]
        rows.append([tool, *(f"{law['mean']:.2g}" if law else "-" for law in laws)])
    return rows


def _lined(rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _note(line: dict[str, Any], rounds: int) -> str:
    """Return why a line, or a part of its rounds, has no figure."""
    if "absent" in line:
        return f"absent: {line['absent']}"
    return f"{line['failed_rounds']} of {rounds} rounds failed: {line['failure']}" if line["failed_rounds"] else ""


def _line(cell: dict[str, Any], tool: str, plan: str) -> dict[str, Any]:
    """Return the line of a tool and a plan; of several races the fastest, or one that is absent."""
    found = [one for one in cell["lines"] if one["tool"] == tool and one["plan"].startswith(plan)]
    line: dict[str, Any] = max(found, key=lambda one: one.get("ratio", 0.0))
    return line


def _shown(line: dict[str, Any]) -> str:
    if "absent" in line:
        return "-"
    if (line["tool"], line["plan"]) == ("spectr", "plain"):
        return f"1 ({line['tokens_per_second']:.0f} tokens/s)"
    low, high = line["quartiles"]
    return f"{line['ratio']:.2f} ({low:.2f} to {high:.2f})"
