"""The tally: counts over rows, and the rates that follow from them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from spectr_jobs.records.rows import Row, Sources, add_sources, content


@dataclasses.dataclass(slots=True)
class Tally:
    """Counts over rows.

    Attributes:
        rows: Number of rows of the output.
        failed: Number of rows of the errors.
        prompt_tokens: Number of tokens of the prompts.
        completion_tokens: Number of tokens that were written.
        rounds: Rounds of all rows, summed: a pass of the target over eight rows counts as eight.
        accepted_at_depth: Number of these rounds that accepted at least 1, 2, ... drafts.
        sources: What each source of drafts did: in how many of these rounds it drafted, and how many tokens it
            proposed and had accepted.
    """

    rows: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    rounds: int = 0
    accepted_at_depth: list[int] = dataclasses.field(default_factory=list)
    sources: Sources = dataclasses.field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Count a row."""
        body = content(row)
        if body.get("error") is not None:
            self.failed += 1
            return
        usage, speculation = body["usage"], body["speculation"]
        self.rows += 1
        self.prompt_tokens += usage["prompt_tokens"]
        self.completion_tokens += usage["completion_tokens"]
        # A run may have been begun by a release that did not count the sources.
        self._add_speculation(speculation["rounds"], speculation["accepted_at_depth"], speculation.get("sources", {}))

    def merge(self, other: Tally) -> None:
        """Add the counts of another tally to this one."""
        for name in ("rows", "failed", "prompt_tokens", "completion_tokens"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self._add_speculation(other.rounds, other.accepted_at_depth, other.sources)

    def _add_speculation(self, rounds: int, accepted_at_depth: list[int], sources: Sources) -> None:
        self.rounds += rounds
        self.sources = add_sources(self.sources, sources)
        self.accepted_at_depth += [0] * (len(accepted_at_depth) - len(self.accepted_at_depth))
        for depth, count in enumerate(accepted_at_depth):
            self.accepted_at_depth[depth] += count

    @property
    def block_efficiency(self) -> float | None:
        """Tokens per target pass: the accepted drafts and one more token; None before the first round."""
        return (sum(self.accepted_at_depth) + self.rounds) / self.rounds if self.rounds else None

    @property
    def acceptance_by_depth(self) -> list[float]:
        """Share of rounds that accepted at least 1, 2, ... drafts."""
        return [count / self.rounds for count in self.accepted_at_depth] if self.rounds else []

    def to_json(self) -> dict[str, Any]:
        """Return the counts as JSON values."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Tally:
        """Return the tally that ``to_json`` turned into JSON values."""
        return Tally(**{**value, "accepted_at_depth": list(value["accepted_at_depth"])})
