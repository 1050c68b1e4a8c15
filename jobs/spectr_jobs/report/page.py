"""The report of a run: one HTML page of charts and tables, which needs no network."""

from __future__ import annotations

import html
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from spectr_jobs.clock import show_date, show_duration
from spectr_jobs.records import rows
from spectr_jobs.report import charts, drafts, summary, timeline
from spectr_jobs.report.charts import Axis
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.layout import ERRORS, OUTPUT
from spectr_jobs.run_directory.sessions import DONE

DOTS = 2000  # the scatter chart has at most about so many dots
SHOWN_FAILURES, SHOWN_MESSAGE = 3, 200  # failures of a kind, and characters of their messages
SHOWN_MARKS = 8  # interruptions that can still be told apart in a chart
UNKNOWN_END = "killed or running"
NONE = "-"  # stands for a figure that does not exist

Figures = Mapping[str, Any]


def page(run: RunDirectory) -> str:
    """Return the HTML of the page."""
    figures = summary.summarize(run)
    sections = [
        _head(run, figures),
        _tiles(figures),
        _plain(run, figures),
        _shared(figures),
        '<div class="charts">',
        *_over_time(run, figures),
        _figure("Drafts accepted by depth", _acceptance(figures)),
        _figure("Where the time went", _time(figures)),
        _figure("Rounds by plan", _plans(figures)),
        _figure("Lengths of prompts and completions", _lengths(run, figures["rows"])),
        "</div>",
        _sources(figures["sources"]),
        drafts.section(run.sessions),
        _failures(run, figures["failures"]),
        _sessions(figures),
    ]
    title, style = html.escape(f"spectr: {run.path.name}"), _STYLE + drafts.STYLE
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{style}</style>'
        + "\n".join(section for section in sections if section)
    )


def _head(run: RunDirectory, figures: Figures) -> str:
    done = figures["rows"] + figures["failed"]
    total = run.manifest.records
    state = "complete" if done == total else f"{done:,} of {total:,} records so far ({done / total:.0%})"
    facts = [
        state,
        figures["plan"] or "not started",
        f"seed {figures['seed']}",
        *([] if figures["call_shape"] is None else [f"call shape {figures['call_shape']}"]),
        f"bundle {figures['bundle']['path']}",
        f"started {_moment(run.manifest.created)}",
    ]
    return f"<h1>{html.escape(str(run.path))}</h1><p>{html.escape(' · '.join(facts))}</p>"


def _tiles(figures: Figures) -> str:
    speed, efficiency = figures["tokens_per_second"], figures["block_efficiency"]
    tiles = {
        "rows": f"{figures['rows']:,}",
        "failed": f"{figures['failed']:,}",
        "tokens read": f"{figures['prompt_tokens']:,}",
        "tokens written": f"{figures['completion_tokens']:,}",
        "tokens per second": NONE if speed is None else f"{speed:,.1f}",
        "block efficiency": NONE if efficiency is None else f"{efficiency:.2f}",
        "time of decoding": show_duration(figures["seconds"]),
        "audit": NONE if figures["audit"] is None else "passed" if figures["audit"]["passed"] else "failed",
    }
    boxes = "".join(f"<div><b>{value}</b>{name}</div>" for name, value in tiles.items())
    return f'<div class="tiles">{boxes}</div>'


def _plain(run: RunDirectory, figures: Figures) -> str:
    speed, slowdown = figures["tokens_per_second"], timeline.plain_slowdown(run.sessions)
    if speed is None or slowdown is None:
        return ""
    return f"<p>Plain decoding would have written about {speed / slowdown:,.1f} tokens/s here (by measured costs).</p>"


def _shared(figures: Figures) -> str:
    reading = figures["reading"]
    return f"<p>Shared prefixes: {html.escape(summary.shared(reading))}.</p>" if reading["copied"] else ""


def _figure(caption: str, chart: str) -> str:
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{chart}</figure>" if chart else ""


def _over_time(run: RunDirectory, figures: Figures) -> list[str]:
    bins = timeline.bins(timeline.spans(run.sessions))
    if not bins:
        return []
    unit, size = unit_of(bins[-1].at)
    time = Axis(unit, 0.0, max(bins[-1].at / size, 1e-9))
    marks = [(at / size, word) for at, word in _interruptions(figures["sessions"])]
    speed = [(interval.at / size, interval.tokens_per_second) for interval in bins]
    efficiency = [
        (interval.at / size, interval.block_efficiency) for interval in bins if interval.block_efficiency is not None
    ]
    accepted = any(value > 1 for _, value in efficiency)
    pictures = {
        "Tokens per second over time": ("tokens/s", speed, marks),
        # Where no draft was accepted, as in plain decoding, every pass wrote one token: that is no picture.
        "Block efficiency over time": ("tokens per target pass", efficiency if accepted else [], []),
    }
    lines = [
        _figure(title, charts.line(points, time, Axis.up_to(label, [value for _, value in points]), title, marks))
        for title, (label, points, marks) in pictures.items()
        if points
    ]
    plans = [*figures["plans"]]
    if len(plans) < 2:
        return lines
    title, columns = "Plans over time", [(interval.at / size, interval.plans) for interval in bins]
    end = Axis(unit, 0.0, time.high + bins[0].at / size)  # of the last interval, not its middle
    return [*lines, _figure(title, charts.stacked(columns, plans[: len(charts.COLOURS) - 1], end, title))]


def unit_of(seconds: float) -> tuple[str, float]:
    """Return the unit in which a time is shown, and the length of the unit in seconds."""
    units = (("seconds", 1.0), ("minutes", 60.0), ("hours", 3600.0))
    return next((unit for unit in units if seconds < 180 * unit[1]), units[-1])


def _interruptions(sessions: Sequence[Figures]) -> list[tuple[float, str]]:
    """Return when and why sessions were interrupted, in seconds since the start of the first session.

    The list is empty if it would be too long to be read in a chart.
    """
    first = min(session["time"] for session in sessions)
    found = [
        (session["time"] + session["seconds"] - first, session["ended"] or UNKNOWN_END)
        for session in sessions
        if session["ended"] != DONE
    ]
    return found if len(found) <= SHOWN_MARKS else []


def _acceptance(figures: Figures) -> str:
    values = {str(depth): share for depth, share in enumerate(figures["acceptance_by_depth"], 1)}
    return charts.bars(values, "depth", Axis("share of rounds", 0.0, 1.0), "Drafts accepted by depth") if values else ""


def _time(figures: Figures) -> str:
    values = {
        stage: (value["share"], show_duration(value["seconds"]))
        for stage, value in figures["timing"].items()
        if value["share"] > 0
    }
    return charts.shares(values, "Where the time went") if values else ""


def _plans(figures: Figures) -> str:
    """Return the chart of rounds by plan; an empty text if there was one plan only."""
    rounds = sum(figures["plans"].values())
    values = {plan: (count / rounds, f"{count:,} rounds") for plan, count in figures["plans"].items()}
    return charts.shares(values, "Rounds by plan") if len(values) > 1 else ""


def _lengths(run: RunDirectory, completed: int) -> str:
    """Return the chart of lengths: a dot for every row of the output, or for every n-th if there are too many."""
    points = []
    lines = itertools.chain.from_iterable(journal.lines(run.shard(number) / OUTPUT) for number in run.shards)
    # Only the lines that become dots are parsed; a line that a power cut damaged is no row and becomes none.
    for line in itertools.islice(lines, 0, None, completed // DOTS + 1):
        if (row := journal.parse_row(line)) is not None:
            usage = rows.content(row)["usage"]
            points.append((usage["prompt_tokens"], usage["completion_tokens"]))
    if not points:
        return ""
    x, y = ([float(point[side]) for point in points] for side in (0, 1))
    axes = Axis.up_to("tokens of the prompt", x), Axis.up_to("tokens of the completion", y)
    return charts.scatter(list(zip(x, y, strict=True)), *axes, "Lengths of prompts and completions")


def _failures(run: RunDirectory, counts: Mapping[str, int]) -> str:
    first: dict[str, list[rows.Row]] = {}
    for row in itertools.chain.from_iterable(journal.rows(run.shard(number) / ERRORS) for number in run.shards):
        if len(of := first.setdefault(rows.content(row)["error"]["code"], [])) < SHOWN_FAILURES:
            of.append(row)
    cells = [
        (
            code,
            f"{count:,}",
            "yes" if rows.is_retryable(first[code][0]) else "no",
            "\n".join(map(_told, first[code])),
        )
        for code, count in counts.items()
    ]
    return _table("Failures", ("code", "records", "--retry-errors may help", "the first of them, by their ids"), cells)


def _told(row: rows.Row) -> str:
    return f"{rows.key(row)}: {rows.content(row)['error']['message'][:SHOWN_MESSAGE]}"


def _sources(sources: Figures) -> str:
    cells = [
        (name, f"{sources[name]['rounds']:,}", accepted, spent or NONE)
        for name, (accepted, spent) in summary.by_source(sources).items()
    ]
    return _table("Drafts by source", ("source", "rounds of rows", "drafted tokens", "time"), cells)


def _sessions(figures: Figures) -> str:
    names = (
        "started",
        "host",
        "rank",
        "plan",
        "batch",
        "backend",
        "device",
        "rows",
        "failed",
        "tokens/s",
        "for",
        "ended",
    )
    cells = [
        (
            _moment(session["time"]),
            session["host"],
            f"{session['rank']} of {session['world']}",
            session["plan"],
            session["batch_size"],
            session["backend"],
            session["device"],
            f"{session['rows']:,}",
            f"{session['failed']:,}",
            f"{session['tokens'] / session['seconds']:,.1f}" if session["seconds"] else NONE,
            show_duration(session["seconds"]),
            session["ended"] or UNKNOWN_END,
        )
        for session in figures["sessions"]
    ]
    return _table("Sessions", names, cells)


def _moment(seconds: float) -> str:
    return show_date(seconds).replace("T", " ").replace("+00:00", " UTC")


def _table(title: str, names: Sequence[str], cells: Sequence[Sequence[object]]) -> str:
    if not cells:
        return ""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>" for row in cells)
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h2>{html.escape(title)}</h2><div class="wide">{table}</div>'


_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; }
h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p { margin: .2rem 0 1.2rem; opacity: .75; }
.tiles { display: flex; flex-wrap: wrap; gap: .6rem; }
.tiles div { background: var(--soft); border-radius: 8px; padding: .6rem .9rem; font-size: .85rem; }
.tiles + p { margin-top: .8rem; }
.tiles b { display: block; font-size: 1.25rem; font-variant-numeric: tabular-nums; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 460px), 1fr)); }
.charts { gap: 1.2rem; margin-top: 1.5rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: 8px; padding: .8rem; }
figcaption { font-weight: 600; margin-bottom: .4rem; }
svg { width: 100%; height: auto; } svg text { font-size: 12px; fill: currentColor; } .grid { stroke: var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line); vertical-align: top; }
td { white-space: pre-line; }
"""
