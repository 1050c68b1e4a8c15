"""A plan says what a round does: which selection rule, how many drafts, and how long they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final, Literal

from spectr_runtime.bundle import Manifest, Role
from spectr_runtime.errors import UsageError
from spectr_select import RULES, DraftTree

PLAIN = "plain"  # decoding with the target alone: the race without drafts
AUTO: Final = "auto"  # instead of a plan: every round takes the race that promises most, or none
MAX_NODES = 256


def rule_names() -> tuple[str, ...]:
    """Return the names that ``Plan`` takes as its rule, plain decoding last."""
    return (*RULES, PLAIN)


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """A selection rule and the drafts that it selects from: K paths of L tokens each, which meet at the root.

    Attributes:
        rule: A name of ``spectr_select.RULES``, or ``plain`` for decoding without a draft. Plain decoding draws as
            races do, so that it writes the text of every race.
        drafts: Number of paths K; 0 for plain decoding.
        length: Number of tokens L of a path; 0 for plain decoding.

    Raises:
        UsageError: The rule is unknown, or does not take this K and L.
    """

    rule: str
    drafts: int
    length: int

    def __post_init__(self) -> None:
        if self.rule not in rule_names():
            raise UsageError(f"Rule {self.rule!r} is unknown; it must be one of {', '.join(rule_names())}.")
        if self.rule == PLAIN:
            if self.drafts or self.length:
                raise UsageError(f"Plain decoding has no drafts; got K={self.drafts}, L={self.length}.")
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
        """Return the plan of decoding with the target alone: its draft tree is the root and nothing else."""
        return Plan(PLAIN, 0, 0)

    @property
    def tree(self) -> DraftTree:
        """The topology of a round's drafts."""
        return DraftTree.paths(self.drafts, self.length) if self.drafts else DraftTree.chain(0)

    def __str__(self) -> str:
        return f"{self.rule} K={self.drafts} L={self.length}" if self.rule != PLAIN else PLAIN


PlanChoice = Plan | Literal["auto"]


def settle(choice: PlanChoice, manifest: Manifest) -> PlanChoice:
    """Return what a choice means for a bundle: without a draft, ``auto`` is plain decoding in every round.

    Args:
        choice: A plan, or ``auto``.
        manifest: The bundle's manifest.

    Raises:
        UsageError: The plan drafts, and the bundle has no draft.
    """
    if manifest.has_draft:
        return choice
    if choice == AUTO:
        return Plan.plain()
    if choice.drafts:
        raise UsageError(
            f"The plan is {choice}, and the bundle has no draft; it can only be decoded plainly.",
            hint="Use --plan plain, or build a bundle with a draft: `spectr-export build TARGET --draft DRAFT`.",
        )
    return choice


def roles_of(plans: Sequence[Plan], manifest: Manifest) -> tuple[Role, ...]:
    """Return the roles of the models that some plans need: the draft only if one of them has drafts."""
    return manifest.roles if any(plan.drafts for plan in plans) else ("target",)
