"""SpecTr's headline experiment, and the model of its speed: ``headline.py``."""

from __future__ import annotations

from typing import Any

from quoting.words import counted, listed, measured, percent, ratio, span, table

PAPER_SINGLE, PAPER_MULTIPLE, PAPER_SPEED = 2.9, 4.0, 2.13  # L = 8; K = 1, K = 8, and K = 8 over plain decoding
PAPER_GAIN = PAPER_MULTIPLE / PAPER_SINGLE
PARTS = ("reading", "drafting", "verification", "selection", "rest")


def cells(result: dict[str, Any]) -> str:
    """For each pair of models and number of rows, a line for each plan."""
    return "\n\n".join(
        _cells(name, facts, rows, batch)
        for name, facts in result["pairs"].items()
        for rows, batch in facts["rows"].items()
    )


def _cells(name: str, facts: dict[str, Any], rows: str, batch: dict[str, Any]) -> str:
    heads = (
        "plan",
        "block efficiency",
        "tokens/s",
        "to plain, with range",
        "to single",
        *PARTS,
        "predicted / measured",
    )
    lines = []
    for one in batch["cells"]:
        guess = one["predicted"]["to_measured"]
        lines.append(
            (
                f"`{one['plan']}`",
                f"{one['block_efficiency']:.2f} ± {one['standard_error']:.2f}",
                f"{one['tokens_per_second']:.0f}",
                ratio(**one["to_plain"]),
                ratio(**one["to_single"]) if "to_single" in one else "",
                *(percent(one["shares"][part]) for part in PARTS),
                ratio(**guess) + ("" if one["predicted"]["holds"] else ", misses"),
            )
        )
    return (
        f"**{name}**, {counted(int(rows), 'row')}: {counted(batch['prompts'], 'prompt')} of {facts['prompt_tokens']} "
        f"tokens, {facts['tokens_per_prompt']} tokens each, {counted(facts['repeats'], 'repeat')}, "
        f"{measured(facts)}.\n\n" + table(heads, lines)
    )


def findings(result: dict[str, Any]) -> str:
    """Where the paper's claims hold in what was measured, and how well the model predicts."""
    told = [
        _found(name, rows, batch)
        for name, facts in result["pairs"].items()
        for rows, batch in facts["rows"].items()
    ]  # fmt: skip
    return (
        f"SpecTr reports {PAPER_SPEED} times the speed of plain decoding, and {PAPER_GAIN:.2f} times the tokens per "
        "pass of a single draft.\n\n" + "\n".join(told)
    )


def _found(name: str, rows: str, batch: dict[str, Any]) -> str:
    """One item of a list: the best of K-SEQ against plain and against the best single draft, and where time goes."""
    found = {one["plan"]: one for one in batch["cells"]}
    several = [one for one in batch["cells"] if one["drafts"] > 1]
    fastest = max(several, key=lambda one: float(one["to_plain"]["median"]))
    single = max((one for one in batch["cells"] if one["plan"].startswith("single")), key=_speed)
    most, one_path, plain = found["kseq K=8 L=8"], found["single K=1 L=8"], found["plain"]
    gain = most["block_efficiency"] / one_path["block_efficiency"]
    calls = most["milliseconds"]["target"] / plain["milliseconds"]["target"]
    ahead = "faster than" if _speed(fastest) > _speed(single) else "no faster than"
    misses = [f"`{one['plan']}`" for one in batch["cells"] if not one["predicted"]["holds"]]
    return (
        f"- {name}, {counted(int(rows), 'row')}: with K = L = 8 a pass writes {most['block_efficiency']:.2f} tokens, "
        f"{gain:.2f} times those of a single draft, at {most['to_plain']['median']:.2f} of plain decoding's speed: a "
        f"call of the target that scores 65 tokens takes {calls:.1f} times one that scores one. The fastest K-SEQ of "
        f"several drafts, `{fastest['plan']}`, comes to {ratio(**fastest['to_plain'])} of plain decoding and is "
        f"{ahead} the fastest single draft, `{single['plan']}`, with {ratio(**single['to_plain'])}. The model predicts "
        f"{batch['predictions_that_hold']} of {len(batch['cells'])} speeds within 15 % or within what was measured, "
        f"and its medians are {span(one['predicted']['to_measured']['median'] for one in batch['cells'])} of those "
        f"measured{f'; it misses {listed(misses)}' if misses else ''}."
    )


def _speed(one: dict[str, Any]) -> float:
    return float(one["to_plain"]["median"])


def like_quality(result: dict[str, Any]) -> str:
    """K-SEQ's block efficiencies where a single draft has the paper's, for two ways to a worse draft."""
    facts = result["like-quality"]
    ways = facts["ways"]
    heads = ("K", *(f"{name}, {what}" for name in ways for what in ("block efficiency", "to single")), "the paper")
    paper = {1: f"{PAPER_SINGLE}", 8: f"{PAPER_MULTIPLE}, {PAPER_GAIN:.2f} of single"}
    lines = []
    for alike in zip(*(way["kseq"] for way in ways.values()), strict=True):
        cells = [
            text
            for one in alike
            for text in (
                f"{one['block_efficiency']:.2f} ± {one['standard_error']:.2f}",
                f"{one['to_single']:.2f} ± {one['to_single_standard_error']:.2f}",
            )
        ]
        lines.append((str(alike[0]["drafts"]), *cells, paper.get(alike[0]["drafts"], "")))
    return (
        f"With {percent(ways['blended']['at'])} of the other law in the draft's, and with a draft at a temperature of "
        f"{ways['flattened']['at']:.2f}, a single draft of {facts['length']} tokens writes "
        f"{listed(_mean(way['single'], way) for way in ways.values())} tokens in a pass, over "
        f"{counted(facts['contexts'] * facts['turns'], 'round')} behind {facts['contexts']} contexts "
        f"{measured(facts)}. Eight drafts write {listed(_apart(name, way) for name, way in ways.items())}:\n\n"
        f"{table(heads, lines)}\n\n{_with_gpu(ways)}"
    )


def _mean(mean: float, way: dict[str, Any]) -> str:
    return f"{mean:.2f} ± {way['standard_error']:.2f}"


def _with_gpu(ways: dict[str, dict[str, Any]]) -> str:
    """What the GPU of the next table would make of these block efficiencies, at one row."""
    told = []
    for name, way in ways.items():
        found = {one["plan"]: one for one in way["on_gpu"] if one["rows"] == 1}
        several, single = found["kseq:8:8"], found["single:1:8"]
        told.append(
            f"{several['to_plain']:.2f} and {single['to_plain']:.2f} {name} "
            f"({several['to_plain_with_larger_draft']:.2f} and {single['to_plain_with_larger_draft']:.2f} with the "
            "larger draft)"
        )
    return (
        "With these block efficiencies, the GPU that is foretold below decodes one row at so many times plain "
        f"decoding's speed, with eight drafts and with a single one: {listed(told)}. The paper has {PAPER_SPEED}."
    )


def _apart(name: str, way: dict[str, Any]) -> str:
    (best,) = (one for one in way["kseq"] if one["drafts"] == 8)
    apart = abs(best["to_single"] - PAPER_GAIN) / best["to_single_standard_error"]
    return f"{best['to_single']:.2f} times as many {name} ({apart:.1f} standard errors from the paper's ratio)"


def gpu(result: dict[str, Any]) -> str:
    """What a GPU is foretold to make of it."""
    return "\n\n".join(_gpu(name, facts["on_gpu"]) for name, facts in result["pairs"].items())


def _gpu(name: str, lines: list[dict[str, Any]]) -> str:
    plain, *others = (one for one in lines if one["rows"] == lines[0]["rows"])
    lengths = list(dict.fromkeys(_sizes(one)[1] for one in others))
    by_row: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for one in lines:
        if one["plan"] != plain["plan"]:
            by_row.setdefault((one["rows"], _sizes(one)[0]), []).append(one)
    shown = [
        (str(rows), str(drafts), *(f"{one['to_plain']:.2f} ({one['to_plain_with_larger_draft']:.2f})" for one in some))
        for (rows, drafts), some in by_row.items()
    ]
    return (
        f"Foretold, with the block efficiencies of {name}: {_gains(lines)}. Speeds over plain decoding, with the "
        "larger draft in parentheses:\n\n" + table(("rows", "K", *(f"L = {length}" for length in lengths)), shown)
    )


def _sizes(one: dict[str, Any]) -> tuple[int, int]:
    _, drafts, length = one["plan"].split(":")
    return int(drafts), int(length)


def _gains(lines: list[dict[str, Any]]) -> str:
    """How K-SEQ compares with the best single draft, for each number of rows."""
    told = []
    for rows in dict.fromkeys(one["rows"] for one in lines):
        some = [one for one in lines if one["rows"] == rows]
        kinds = [[one for one in some if one["plan"].startswith(rule)] for rule in ("kseq", "single")]
        several, single = (max(kind, key=lambda one: float(one["to_plain"])) for kind in kinds)
        told.append(
            f"with {counted(rows, 'row')} the best of several drafts, `{several['plan']}`, comes to "
            f"{several['to_plain']:.2f} of plain decoding and the best single one, `{single['plan']}`, to "
            f"{single['to_plain']:.2f}"
        )
    return "; ".join(told)


QUOTES = {
    "headline": ("headline.json", cells),
    "headline-findings": ("headline.json", findings),
    "headline-like-quality": ("headline.json", like_quality),
    "headline-gpu": ("headline.json", gpu),
}
