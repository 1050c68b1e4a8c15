"""The timeline of a run: rates over time, summed over the processes that decoded, from the events of their sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from spectr_jobs.run_directory.sessions import PastSession, State, read_sessions

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


def spans(folder: Path) -> list[Span]:
    """Return what all sessions of a run did, piece by piece.

    Args:
        folder: Where the events of the sessions are.
    """
    return [span for session in read_sessions(folder) for span in _spans(session)]


def _spans(session: PastSession) -> Iterator[Span]:
    """Yield the pieces of one session; their times are those since its start, which no change of a clock affects."""
    for before, after in pairwise((State(), *session.states)):
        first, last = before.tally, after.tally
        yield Span(
            start=session.start + before.seconds,
            end=session.start + after.seconds,
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
