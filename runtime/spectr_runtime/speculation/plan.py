"""What a round does: which rule, how many drafts, how long."""

from __future__ import annotations

import dataclasses
from typing import Final, Literal

from spectr_runtime.errors import UsageError
from spectr_select import RULES, DraftTree

PLAIN = "plain"
AUTO: Final = "auto"
DRAFTLESS = (PLAIN, "race")
MAX_NODES = 256


def rule_names() -> tuple[str, ...]:
    """Names that ``Plan`` takes, plain decoding last."""
    return (*RULES, PLAIN)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A selection rule and the drafts that it selects from: K paths of L tokens that meet at the last token.

    Attributes:
        rule: A name of ``spectr_select.RULES``, or ``plain`` for decoding without a draft.
        drafts: Paths K; 0 for plain, and for a race that writes its text without a draft.
        length: Tokens L of a path; 0 without drafts.

    Raises:
        UsageError: The rule is unknown or does not go with this K and L.
    """

    rule: str
    drafts: int
    length: int

    def __post_init__(self) -> None:
        if self.rule not in rule_names():
            raise UsageError(f"Rule {self.rule!r} is unknown; it must be one of {', '.join(rule_names())}.")
        if self.rule == PLAIN and (self.drafts or self.length):
            raise UsageError(f"Plain decoding has no drafts; got K={self.drafts}, L={self.length}.")
        if self.rule in DRAFTLESS and not (self.drafts or self.length):
            return
        if self.drafts < 1 or self.length < 1:
            raise UsageError(f"K={self.drafts} drafts of length L={self.length}: both must be at least 1.")
        if self.drafts * self.length >= MAX_NODES:
            raise UsageError(f"K={self.drafts} times L={self.length} drafts: a round takes fewer than {MAX_NODES}.")
        if RULES[self.rule].trees == "chain" and self.drafts > 1:
            raise UsageError(
                f"Rule {self.rule} takes one draft path; got K={self.drafts}.", hint="Use --drafts 1 or --rule kseq."
            )

    @staticmethod
    def plain() -> Plan:
        """Decoding with the target alone, through the same code: the draft tree is its root."""
        return Plan(PLAIN, 0, 0)

    @property
    def tree(self) -> DraftTree:
        """The draft tree of a round."""
        return DraftTree.paths(self.drafts, self.length) if self.drafts else DraftTree.chain(0)

    def __str__(self) -> str:
        return f"{self.rule} K={self.drafts} L={self.length}" if self.rule != PLAIN else PLAIN


PlanChoice = Plan | Literal["auto"]
