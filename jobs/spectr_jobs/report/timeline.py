"""The timeline of a run: rates over time, summed over the processes that decoded, from the events of their sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from spectr_jobs.records.tally import Tally
from spectr_jobs.run_directory import journal

BINS = 120


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """What one session did between two of its events.

    Attributes:
        start: When it began, in seconds since 1970.
        end: When it ended.
        tokens: Tokens written.
        rounds: Target passes.
        accepted: Drafts accepted.
    """

    start: float
    end: float
    tokens: int
    rounds: int
    accepted: int


@dataclasses.dataclass(frozen=True, slots=True)
class Bin:
    """A stretch of the run's time.

    Attributes:
        at: Its middle, in seconds since the first session's start.
        tokens_per_second: Over all sessions.
        block_efficiency: Tokens per target pass; none where there was no pass.
    """

    at: float
    tokens_per_second: float
    block_efficiency: float | None


def spans(sessions: Path) -> list[Span]:
    """What all sessions did, in pieces.

    Args:
        sessions: Folder of their events.
    """
    return [
        span for path in sorted(sessions.glob("*.jsonl")) for span in _spans([row for _, _, row in journal.rows(path)])
    ]


def _spans(events: Sequence[Any]) -> Iterator[Span]:
    """Times are those since the session's start, which no setting of a clock changes."""
    states = [event for event in events if event["event"] == "start" or "tally" in event]
    for before, after in pairwise(states):
        first = Tally.from_json(before["tally"]) if "tally" in before else Tally()
        last = Tally.from_json(after["tally"])
        yield Span(
            start=events[0]["time"] + before.get("seconds", 0.0),
            end=events[0]["time"] + after["seconds"],
            tokens=last.completion_tokens - first.completion_tokens,
            rounds=last.rounds - first.rounds,
            accepted=sum(last.accepted_at_depth) - sum(first.accepted_at_depth),
        )


def bins(pieces: Sequence[Span]) -> list[Bin]:
    """The run's time in equal stretches; what a session did is spread evenly over its pieces."""
    pieces = [piece for piece in pieces if piece.end > piece.start]
    if not pieces:
        return []
    start, end = min(piece.start for piece in pieces), max(piece.end for piece in pieces)
    width = (end - start) / BINS
    return [_bin(pieces, start + index * width, width, start) for index in range(BINS)]


def _bin(pieces: Sequence[Span], low: float, width: float, start: float) -> Bin:
    tokens = rounds = accepted = 0.0
    for piece in pieces:
        share = max(0.0, min(low + width, piece.end) - max(low, piece.start)) / (piece.end - piece.start)
        tokens += share * piece.tokens
        rounds += share * piece.rounds
        accepted += share * piece.accepted
    efficiency = (accepted + rounds) / rounds if rounds else None
    return Bin(low + width / 2 - start, tokens / width, efficiency)
