"""The timeline of a run: rates over time, summed over all processes, computed from the events of their sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from spectr_jobs.run_directory.sessions import PastSession, State, read_sessions

BINS = 120  # points of a chart


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """The work of one session between two of its events.

    Attributes:
        start: Time of the first event, in seconds since 1970.
        end: Time of the second event.
        tokens: Tokens written between them.
        rounds: Target passes between them.
        accepted: Drafts accepted between them.
    """

    start: float
    end: float
    tokens: int
    rounds: int
    accepted: int


@dataclasses.dataclass(frozen=True, slots=True)
class Bin:
    """The rates in one of the equal intervals into which the time of a run is divided.

    Attributes:
        at: Middle of the interval, in seconds since the first session's start.
        tokens_per_second: Sum over all sessions.
        block_efficiency: Tokens per target pass; None if there was no pass.
    """

    at: float
    tokens_per_second: float
    block_efficiency: float | None


def spans(folder: Path) -> list[Span]:
    """Return the work of all sessions of a run, from event to event.

    Args:
        folder: Folder of the events of the sessions.
    """
    return [span for session in read_sessions(folder) for span in _spans(session)]


def _spans(session: PastSession) -> Iterator[Span]:
    """Yield the work of one session from event to event.

    The times are the session's start plus the seconds that the session counted itself, so no change of the machine's
    clock affects them.
    """
    for before, after in pairwise((State(), *session.states)):
        first, last = before.tally, after.tally
        yield Span(
            start=session.start + before.seconds,
            end=session.start + after.seconds,
            tokens=last.completion_tokens - first.completion_tokens,
            rounds=last.rounds - first.rounds,
            accepted=sum(last.accepted_at_depth) - sum(first.accepted_at_depth),
        )


def bins(spans: Sequence[Span]) -> list[Bin]:
    """Divide the time of a run into equal intervals. The work of a span is taken to be spread evenly over its time."""
    spans = [span for span in spans if span.end > span.start]
    if not spans:
        return []
    start, end = min(span.start for span in spans), max(span.end for span in spans)
    width = (end - start) / BINS
    return [_bin(spans, start + index * width, width, start) for index in range(BINS)]


def _bin(spans: Sequence[Span], low: float, width: float, start: float) -> Bin:
    tokens = rounds = accepted = 0.0
    for span in spans:
        share = max(0.0, min(low + width, span.end) - max(low, span.start)) / (span.end - span.start)
        tokens += share * span.tokens
        rounds += share * span.rounds
        accepted += share * span.accepted
    efficiency = (accepted + rounds) / rounds if rounds else None
    return Bin(low + width / 2 - start, tokens / width, efficiency)
