"""The summary of a run: ``summary.json``, and the same figures as a table on stderr."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from spectr_jobs.clock import show_date, show_duration
from spectr_jobs.console import table
from spectr_jobs.records.rows import Sources, add_sources, content
from spectr_jobs.run_directory import journal
from spectr_jobs.run_directory.directory import RunDirectory
from spectr_jobs.run_directory.layout import AUDIT, ERRORS
from spectr_jobs.run_directory.sessions import PastSession, read_sessions
from spectr_runtime.files import replace
from spectr_runtime.rows.drafting import CORPUS, DRAFT, LOOKUP, TEXTS

SHOWN_FAILURES = 4
LOOKED_UP = (LOOKUP, CORPUS)  # the sources that are looked into together


def summarize(run: RunDirectory) -> dict[str, Any]:
    """Return the summary of a run, or of what is done of it so far.

    ``seconds`` is the time during which at least one process decoded, and rates are relative to it. ``process_seconds``
    is the sum of the decoding times of all processes. Neither includes the loading of the models.
    """
    tally, manifest, sessions = run.tally(run.shards), run.manifest, [*read_sessions(run.sessions)]
    ends = [session.start + session.last.seconds for session in sessions]
    spent = sum(session.last.seconds for session in sessions)
    seconds = _covered(zip((session.start for session in sessions), ends, strict=True))
    decoded = sum(session.last.tally.completion_tokens for session in sessions)
    timing = _timing([session.last.timing for session in sessions], spent)
    return {
        "plan": ", ".join(dict.fromkeys(session.facts["plan"] for session in sessions)),
        "rows": tally.rows,
        "failed": tally.failed,
        "failures": dict(failures(run).most_common()),
        "prompt_tokens": tally.prompt_tokens,
        "completion_tokens": tally.completion_tokens,
        "seconds": round(seconds, 3),
        "process_seconds": round(spent, 3),
        "tokens_per_second": round(decoded / seconds, 3) if seconds else None,
        "block_efficiency": _rounded(tally.block_efficiency),
        "acceptance_by_depth": [_rounded(share) for share in tally.acceptance_by_depth],
        "rounds": tally.rounds,
        "sources": _sources(tally.sources, timing),
        "plans": dict(_sum(session.last.plans for session in sessions).most_common()),
        "reading": {"read": 0, "calls": 0, "copied": 0} | _sum(session.last.reading for session in sessions),
        "timing": timing,
        "sessions": [_session(session) for session in sessions],
        "audit": json.loads(audit.read_text(encoding="utf-8")) if (audit := run.path / AUDIT).exists() else None,
        "bundle": {"path": manifest.bundle, "sha256": manifest.terms.bundle_sha256},
        "seed": manifest.terms.seed,
        "date": str(manifest.date),
        "call_shape": manifest.terms.call_shape,
        "sampling": manifest.terms.defaults,
        "versions": dict(manifest.versions),
        "started": show_date(manifest.created),
        "finished": show_date(max(ends, default=manifest.created)),
    }


def _covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of intervals of time."""
    covered, reached = 0.0, -math.inf
    for start, end in sorted(spans):
        covered += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return covered


def failures(run: RunDirectory) -> Counter[str]:
    """Count the failed records by the code of their error."""
    paths = (run.shard(number) / ERRORS for number in run.shards)
    return Counter(content(row)["error"]["code"] for path in paths for row in journal.rows(path))


def _session(session: PastSession) -> dict[str, Any]:
    """Return the facts of a session, its last counts, and as ``ended`` the reason why it ended, if it did."""
    last = session.last
    return dict(session.facts) | {
        "seconds": last.seconds,
        "rows": last.tally.rows,
        "failed": last.tally.failed,
        "tokens": last.tally.completion_tokens,
        "ended": session.reason,
    }


def _sum(counts: Iterable[Mapping[str, int]]) -> Counter[str]:
    """Return the sum of the counts of every name."""
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return total


def _timing(timings: Iterable[Mapping[str, float]], seconds: float) -> dict[str, Any]:
    """Return the seconds of every stage and their share of the whole.

    The stage ``other`` is the time that the decoder assigns to no stage.
    """
    sums: dict[str, float] = {}
    for timing in timings:
        for stage, spent in timing.items():
            sums[stage] = sums.get(stage, 0.0) + spent
    sums["other"] = max(0.0, seconds - sum(sums.values()))
    return {
        stage: {"seconds": round(value, 3), "share": _rounded(value / seconds if seconds else 0.0)}
        for stage, value in sums.items()
    }


def _sources(counts: Sources, timing: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    """Return what each source of drafts did, and the seconds that it took.

    A row's own text and the corpus are looked into together, so these seconds are those of ``texts``, which is both.
    """
    texts = add_sources(*({TEXTS: did} for name, did in counts.items() if name in LOOKED_UP))
    stages = {DRAFT: "draft", TEXTS: "lookup"}
    return {
        name: {**did, "seconds": timing.get(stages[name], {}).get("seconds", 0.0)} if name in stages else dict(did)
        for name, did in {**counts, **texts}.items()
    }


def by_source(sources: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return for people what each source did: the drafts that were accepted, and how long it took, if that is known."""
    alone = [name for name in LOOKED_UP if name in sources]
    told = {}
    for name, did in sources.items():
        shown = alone[0] if name == TEXTS and len(alone) == 1 else name
        accepted = f"{did['accepted']:,} of {did['proposed']:,} accepted ({did['accepted'] / did['proposed']:.0%})"
        told[shown] = accepted, show_duration(did["seconds"]) if "seconds" in did else ""
    return told


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)


def render(summary: Mapping[str, Any], files: Mapping[str, Path]) -> str:
    """Return a summary as a table for the terminal.

    Args:
        summary: A summary that ``summarize`` returned.
        files: Paths of the files to list, by name; empty files are left out.
    """
    failed = f", {summary['failed']:,} failed" if summary["failed"] else ""
    lines = [
        ("rows", f"{summary['rows']:,} completed{failed}"),
        *_failed(summary["failures"]),
        ("tokens", f"{summary['prompt_tokens']:,} read, {summary['completion_tokens']:,} written"),
    ]
    if summary["tokens_per_second"] is not None:
        spent = show_duration(summary["seconds"])
        sessions = f", {len(summary['sessions'])} sessions" if len(summary["sessions"]) > 1 else ""
        lines.append(("speed", f"{summary['tokens_per_second']:,.1f} tokens/s in {spent} of decoding{sessions}"))
    if summary["reading"]["copied"]:
        lines.append(("shared prefixes", shared(summary["reading"])))
    lines += _speculation(summary)
    if len(summary["plans"]) > 1:
        rounds = sum(summary["plans"].values())
        lines.append(("plans", ", ".join(f"{plan} {count / rounds:.0%}" for plan, count in summary["plans"].items())))
    shares = {stage: value["share"] for stage, value in summary["timing"].items() if value["share"] >= 0.005}
    lines.append(("time", ", ".join(f"{stage} {share:.0%}" for stage, share in shares.items())))
    if audit := summary["audit"]:
        verdict = "passed" if audit["passed"] else "failed"
        lines.append(("audit", f"{verdict}, p = {audit['p_value']:.2g} over {audit['tokens']:,} tokens"))
    lines += [(name, str(path)) for name, path in files.items() if path.stat().st_size]
    return table(lines)


def shared(reading: Mapping[str, int]) -> str:
    """Return how much of the prompts was not read, because other prompts begin alike."""
    copied, texts = reading["copied"], reading["copied"] + reading["read"]
    return f"{copied:,} of {texts:,} tokens ({copied / texts:.0%}) copied from prompts that begin alike, not read again"


def _failed(failures: Mapping[str, int]) -> list[tuple[str, str]]:
    kinds = [f"{count:,} {code}" for code, count in failures.items()]
    more = [f"{len(kinds) - SHOWN_FAILURES} more kinds"] if len(kinds) > SHOWN_FAILURES else []
    return [("failures", ", ".join(kinds[:SHOWN_FAILURES] + more))] if kinds else []


def _speculation(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    if summary["block_efficiency"] is None:
        return []
    lines = [("block efficiency", f"{summary['block_efficiency']:.2f} tokens per target pass ({summary['plan']})")]
    if summary["acceptance_by_depth"]:
        shares = "  ".join(f"{depth}: {share:.0%}" for depth, share in enumerate(summary["acceptance_by_depth"], 1))
        lines.append(("accepted by depth", shares))
    for name, (accepted, time) in by_source(summary["sources"]).items():
        lines.append((f"drafts of {name}", f"{accepted}{time and f', {time}'}"))
    return lines


def write(run: RunDirectory) -> dict[str, Any]:
    """Summarize a complete run, write the summary to ``summary.json`` and return it."""
    summary = summarize(run)
    text = json.dumps(summary, ensure_ascii=False, indent=2) + "\n"
    replace(run.summary, [text.encode("utf-8", "backslashreplace")])
    return summary
