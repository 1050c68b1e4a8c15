"""spectr beside other tools: ``peers.py``, and beside OpenVINO GenAI where prompts share a part: ``prompts.py``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from quoting.words import counted, listed, measured, numeral, ratio, table

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


PAIRS = {"padded": "padded pair", "smollm2": "SmolLM2-135M"}


def tables(result: dict[str, Any]) -> str:
    """A table of speeds for each pair, why figures are absent, and how far the laws are off."""
    pairs = dict.fromkeys(cell["pair"] for cell in result["cells"])
    return "\n\n".join(text for pair in pairs for text in _tables(pair, result["cells"]) if text)


def findings(result: dict[str, Any]) -> str:
    """Where and when, and the best plan of spectr beside the best of the others."""
    cells = result["cells"]
    rounds = sorted({cell["rounds"] for cell in cells})
    when = listed(dict.fromkeys(measured(cell["machine"]) for cell in cells))
    kseq = [_line(cell, "spectr", "kseq").get("ratio", 0.0) for cell in cells]
    return (
        f"Measured {when}, in {listed(map(numeral, rounds))} rounds. Our fastest plan beside the fastest of the other "
        "tools, both chosen after the fact, and the ratio of the two:\n\n"
        + table(("models", "spectr", "others", "ratio"), map(_ahead, cells))
        + f"\n\nThe better K-SEQ of the two is faster than plain decoding in {sum(one > 1 for one in kseq)} of "
        f"{len(cells)} cells."
    )


def _ahead(cell: dict[str, Any]) -> list[str]:
    found = [line for line in cell["lines"] if "ratio" in line]
    own = max((line for line in found if line["tool"] == "spectr"), key=lambda line: line["ratio"])
    other = max((line for line in found if line["tool"] != "spectr"), key=lambda line: line["ratio"])
    name = f"{PAIRS.get(cell['pair'], cell['pair'])}, {_head(cell)}"
    return [name, own["plan"], f"{other['tool']}, {other['plan']}", f"{own['ratio'] / other['ratio']:.2f}"]


def _tables(pair: str, cells: Sequence[dict[str, Any]]) -> list[str]:
    own = [cell for cell in cells if cell["pair"] == pair]
    rows = [[name, *(_shown(_line(cell, *key)) for cell in own)] for name, key in LINES.items()]
    return [
        f"**{PAIRS.get(pair, pair)}**, the ratio to spectr's plain decoding with its quartiles:",
        table(("tool", *map(_head, own)), rows),
        "\n".join(_notes(own)),
        _laws(own),
    ]


def _head(cell: dict[str, Any]) -> str:
    return f"{cell['precision']}, {counted(cell['rows'], 'row')}"


def _notes(cells: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield why lines, or a part of their rounds, have no figures; cells with one reason in one item."""
    where: dict[tuple[str, str], list[str]] = {}
    for cell in cells:
        for line in cell["lines"]:
            if note := _note(line, cell["rounds"]):
                where.setdefault((f"{line['tool']}, {line['plan']}", note), []).append(_head(cell))
    for (name, note), heads in where.items():
        yield f"- {name}: {note} ({'; '.join(heads)})"


def _note(line: dict[str, Any], rounds: int) -> str:
    if "absent" in line:
        return f"absent, {_brief(line['absent'])}"
    return (
        f"{line['failed_rounds']} of {rounds} rounds failed, {_brief(line['failure'])}" if line["failed_rounds"] else ""
    )


def _brief(error: str) -> str:
    """Return an error without the path of a source on the machine that built the tool."""
    return error.split(" at /")[0]


def _laws(cells: Sequence[dict[str, Any]]) -> str:
    """Return by how much each tool's law differs from the original's in each precision."""
    by_precision = {cell["precision"]: cell for cell in reversed(cells)}
    precisions = list(reversed(by_precision))
    rows = []
    for tool in dict.fromkeys(tool for tool, _ in LINES.values()):
        laws = [_line(by_precision[precision], tool, "plain").get("law") for precision in precisions]
        rows.append([tool, *(f"{law['mean']:.2g}" if law else "-" for law in laws)])
    return table(("mean difference of log-probabilities from float32's", *precisions), rows)


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
    return ratio(line["ratio"], *line["quartiles"])


def shared(result: dict[str, Any]) -> str:
    """Prompts that share a part: what was asked, and a line for each input."""
    rows: dict[str, list[str]] = {}
    for line in result["lines"]:
        own = rows.setdefault(line["input"], [line["input"]])
        ratios = listed(f"{one:.2f}" for one in line["ratios"])
        shown = f"{line['tokens_per_second']:.0f} tokens/s" if len(own) == 1 else ratios
        own.append(f"{shown}, {line['peak_gb']:.1f} GB")
    return (
        f"{result['prompts']} prompts, {numeral(result['rows'])} at a time, {result['written']} tokens behind each, in "
        f"{result['precision']} {measured(result)}: the padded pair with more positions, `--plan auto`, with and "
        "without the store of what prompts share, and OpenVINO GenAI with its cache of prefixes, in turns. Figures are "
        "tokens per second without the store, and for the others the ratio to that, round by round; and the largest "
        "memory of the process up to then.\n\n"
        + table(("input", "without the store", "with it", "OpenVINO GenAI"), rows.values())
    )


QUOTES = {
    "peers": ("peers.json", tables),
    "peers-findings": ("peers.json", findings),
    "shared-prompts": ("prompts.json", shared),
}
