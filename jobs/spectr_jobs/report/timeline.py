"""The timeline of a run: rates and plans over time, over all processes, computed from the events of their sessions."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from spectr_jobs.run_directory.sessions import PastSession, State, read_sessions

BINS = 120  # points of a chart
KNOWN = 0.5  # share of the rounds from which on they speak for the run


@dataclasses.dataclass(frozen=True, slots=True)
class Span:
    """The work of one session between two of its events.

    Attributes:
        start: Time of the first event, in seconds since 1970.
        end: Time of the second event.
        tokens: Tokens written between them.
        rounds: Target passes between them.
        accepted: Drafts accepted between them.
        plans: Rounds of each plan between them.
    """

    start: float
    end: float
    tokens: int
    rounds: int
    accepted: int
    plans: Mapping[str, int] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, slots=True)
class Bin:
    """The rates in one of the equal intervals into which the time of a run is divided.

    Attributes:
        at: Middle of the interval, in seconds since the first session's start.
        tokens_per_second: Sum over all sessions.
        block_efficiency: Tokens per target pass; None if there was no pass.
        plans: The share of each plan in the rounds; empty if there was none.
    """

    at: float
    tokens_per_second: float
    block_efficiency: float | None
    plans: Mapping[str, float]


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
            plans={plan: rounds - before.plans.get(plan, 0) for plan, rounds in after.plans.items()},
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
    plans = dict[str, float]()
    for span in spans:
        share = max(0.0, min(low + width, span.end) - max(low, span.start)) / (span.end - span.start)
        tokens += share * span.tokens
        rounds += share * span.rounds
        accepted += share * span.accepted
        for plan, count in span.plans.items():
            if share * count > 0:
                plans[plan] = plans.get(plan, 0.0) + share * count
    efficiency = (accepted + rounds) / rounds if rounds else None
    return Bin(low + width / 2 - start, tokens / width, efficiency, _shares(plans))


def _shares(counts: Mapping[str, float]) -> dict[str, float]:
    whole = sum(counts.values())
    return {name: count / whole for name, count in counts.items()}


def plain_slowdown(folder: Path) -> float | None:
    """Return how many times as long the run would have taken by plain decoding; None if that is not known.

    Rounds whose plain counterparts are not known, and what is no part of a round, such as reading prompts, count as
    they were.

    Args:
        folder: Folder of the events of the sessions.
    """
    last = [session.last for session in read_sessions(folder)]
    seconds, rounds = sum(state.seconds for state in last), sum(sum(state.plans.values()) for state in last)
    known, spent, plain = (sum(state.plain.get(name, 0.0) for state in last) for name in ("rounds", "spent", "plain"))
    return (seconds - spent + plain) / seconds if seconds and known and known >= KNOWN * rounds else None
