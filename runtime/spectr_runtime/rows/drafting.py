"""What rows draft from: the names of the sources, what a request may ask for, and what sources did for a row."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal, NamedTuple, get_args

from spectr_runtime.errors import RequestError

SourceName = Literal["draft", "lookup", "corpus", "texts"]
DRAFT: Final = "draft"  # the draft model of the bundle
LOOKUP: Final = "lookup"  # the row's own text
CORPUS: Final = "corpus"  # rows that were finished before, and texts of the user
TEXTS: Final = "texts"  # look-up or the corpus, whichever promises more for a row
SOURCES: tuple[SourceName, ...] = get_args(SourceName)
LONGEST = 255  # tokens of a path, and one of the root

# Before anything is known: the share of first tokens that are accepted, and of tokens behind accepted ones. A guess
# that is too high is found out in the next round, one that is too low is not.
FIRST, LATER = 0.6, 0.85
PRIOR_TESTS = 4.0  # a guess counts like so many tests
KEPT = 0.998  # of all counts, at every new one


@dataclasses.dataclass(frozen=True, slots=True)
class DraftChoice:
    """What a request asks to be drafted from.

    Attributes:
        source: Its only source; None for no drafts at all.
        length: The most tokens that are drafted for the row in a round; None for as many as the plan says.

    Raises:
        RequestError: There is no such source, or the length is not 1 to 255.
    """

    source: SourceName | None
    length: int | None = None

    def __post_init__(self) -> None:
        if self.source is not None and self.source not in SOURCES:
            allowed = f"false, or one of {', '.join(SOURCES)}"
            raise RequestError(f"draft has the source {self.source!r}; it must be {allowed}.", param="draft")
        if self.length is not None and not 1 <= self.length <= LONGEST:
            raise RequestError(f"draft has the length {self.length}; it must be 1 to {LONGEST}.", param="draft")


class Drafted(NamedTuple):
    """What a row drafted in a round.

    Attributes:
        source: Where the drafts came from; None if the row drafted nothing.
        proposed: The number of tokens of the longest drafted path.
        accepted: How many tokens of a path were accepted.
        lacking: How many of the text's last tokens the cache of the draft lacks now; None if it was not fed.
        plan: The plan of the round, for a row that is watched; empty for others.
        paths: The drafted paths, for a row that is watched; empty for others.
    """

    source: SourceName | None
    proposed: int
    accepted: int
    lacking: int | None = None
    plan: str = ""
    paths: tuple[tuple[int, ...], ...] = ()


NOTHING = Drafted(None, 0, 0)


@dataclasses.dataclass(slots=True)
class SourceStats:
    """What a source of drafts did for a row.

    Attributes:
        rounds: In how many rounds it drafted.
        proposed: How many tokens its longest paths had in all.
        accepted: How many of its tokens were accepted.
    """

    rounds: int = 0
    proposed: int = 0
    accepted: int = 0

    def add(self, drafted: Drafted) -> None:
        """Count a round."""
        self.rounds += 1
        self.proposed += drafted.proposed
        self.accepted += drafted.accepted


@dataclasses.dataclass(slots=True)
class Trials:
    """Counts of tests and of passed ones: of the first token of drafts, and of tokens behind accepted ones."""

    first: float = 0.0
    first_passed: float = 0.0
    later: float = 0.0
    later_passed: float = 0.0

    def add(self, proposed: int, accepted: int) -> None:
        """Count a path of which so many tokens were accepted; older ones weigh less."""
        self.first = KEPT * self.first + 1
        self.first_passed = KEPT * self.first_passed + (accepted > 0)
        self.later = KEPT * self.later + min(accepted, proposed - 1)
        self.later_passed = KEPT * self.later_passed + max(accepted - 1, 0)

    def shares(self, first: float = FIRST, later: float = LATER) -> tuple[float, float]:
        """Return the shares that pass, given what is expected of them before any test."""
        return (
            (self.first_passed + PRIOR_TESTS * first) / (self.first + PRIOR_TESTS),
            (self.later_passed + PRIOR_TESTS * later) / (self.later + PRIOR_TESTS),
        )
