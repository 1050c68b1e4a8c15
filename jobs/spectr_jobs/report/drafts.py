"""Some rows of a run with the drafts that were kept, shaded by how deep they stood in their path."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spectr_jobs.records.rows import Row
from spectr_jobs.run_directory.sessions import read_sessions

SHOWN = 6  # rows
DEEPEST = 6  # from this depth on, shades are the same
COLOURS = {"draft": "47 111 222", "lookup": "27 158 138", "corpus": "217 142 4"}  # other sources have one of their own
OTHER = "200 69 108"


def section(folder: Path) -> str:
    """Return the part of the page that shows the rows; an empty text if none was watched.

    Args:
        folder: Folder of the events of the sessions.
    """
    # A record whose row was lost by a power cut is decoded and watched again.
    watched = {row["id"]: row for session in read_sessions(folder) for row in session.watched}
    rows = [*watched.values()]
    shown = [rows[index * len(rows) // SHOWN] for index in range(SHOWN)] if len(rows) > SHOWN else rows
    if not shown:
        return ""
    return f"<h2>Drafts in some rows</h2>{_legend(shown)}{''.join(map(_row, shown))}"


def _legend(rows: Sequence[Row]) -> str:
    sources = sorted({one["source"] for row in rows for one in row["rounds"] if one["drafted"]})
    swatches = "".join(
        f"<span>{html.escape(source)} {''.join(_span(str(n), source, n, source) for n in range(1, DEEPEST + 1))}</span>"
        for source in sources
    )
    told = "Shaded tokens were drafted and kept, the darker the deeper in their path; the target put in the others."
    return f'<p class="legend"><span>{told}</span>{swatches}</p>'


def _row(row: Row) -> str:
    rounds = row["rounds"]
    tokens = sum(len(one["texts"]) for one in rounds)
    part = f"the first {tokens:,} of {row['tokens']:,}" if tokens < row["tokens"] else f"{tokens:,}"
    told = f"{part} tokens in {len(rounds):,} passes, {tokens / len(rounds):.2f} per pass"
    text = "".join(map(_round, rounds))
    return f'<div class="drafts"><b>{html.escape(str(row["id"]))}</b> · {told}<pre>{text}</pre></div>'


def _round(one: Any) -> str:
    spans = []
    for depth, text in enumerate(one["texts"], 1):
        kept = depth <= one["drafted"]
        who = f"{one['source']}, depth {depth}" if kept else "target"
        spans.append(_span(text, f"{who} · {one['plan']}", depth if kept else 0, one["source"]))
    return "".join(spans)


def _span(text: str, title: str, depth: int, source: str | None) -> str:
    """Return a token; one of depth 0 has no shade. A line break shows its shade too."""
    if not depth:
        return f'<span title="{html.escape(title)}">{html.escape(text)}</span>'
    known = source if source in COLOURS else "other"
    shown = html.escape(text).replace("\n", "↵\n")
    return f'<span class="kept {known} d{min(depth, DEEPEST)}" title="{html.escape(title)}">{shown}</span>'


STYLE = "\n".join(
    [
        ".drafts { margin: .8rem 0; } .drafts pre { font: 13px/1.7 ui-monospace, monospace; white-space: pre-wrap; }",
        ".drafts pre { overflow-wrap: anywhere; margin: .3rem 0 0; padding: .6rem .8rem; border-radius: 8px; }",
        ".drafts pre { border: 1px solid var(--line); }",
        ".legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .9rem; opacity: 1; }",
        ".kept { background: rgb(var(--colour) / var(--depth)); border-radius: 2px; }",
        ".legend .kept { padding: 0 .4em; }",
        *(f".{name} {{ --colour: {colour}; }}" for name, colour in (*COLOURS.items(), ("other", OTHER))),
        *(f".d{depth} {{ --depth: {0.1 + 0.1 * depth:.1f}; }}" for depth in range(1, DEEPEST + 1)),
    ]
)
