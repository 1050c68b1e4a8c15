"""A plan says what a round does: which selection rule, how many drafts, and how long they are."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Final, Literal

from spectr_runtime.bundle import Manifest, Role
from spectr_runtime.errors import RequestError, UsageError
from spectr_runtime.rows.drafting import DRAFT, LOOKUP, SOURCES, DraftChoice, SourceName
from spectr_runtime.rows.request import Failure, Request
from spectr_select import RULES, DraftTree

PLAIN = "plain"  # decoding with the target alone: the race without drafts
AUTO: Final = "auto"  # instead of a plan: every round takes the race that promises most, or none
MAX_NODES = 256

POINT_MASSES = ("single", "block")  # rules that take a path that was looked up


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
        source: Where drafts come from: ``draft``, the draft model; ``lookup``, the row's own text; ``corpus``, the rows
            that were finished before and the user's texts; ``texts``, one or the other of these two.

    Raises:
        UsageError: The rule or the source is unknown, or the rule does not take this K, L or source.
    """

    rule: str
    drafts: int
    length: int
    source: SourceName = DRAFT

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
        self._check_source()

    def _check_source(self) -> None:
        if self.source not in SOURCES:
            raise UsageError(f"Source {self.source!r} is unknown; it must be one of {', '.join(SOURCES)}.")
        if self.source == DRAFT or self.races:
            return
        if self.source != LOOKUP:
            raise UsageError(
                f"Rule {self.rule} takes no drafts from {self.source}: the law would hold, but a row would depend on "
                "the rows that were finished before it.",
                hint="Use --rule race, which writes the same text whatever is drafted, or --source lookup.",
            )
        if self.rule not in POINT_MASSES or self.drafts > 1:
            raise UsageError(
                f"Rule {self.rule} with K={self.drafts} takes no drafts from lookup; a path that is looked up has no "
                f"law. It can be given to race, or one path to {' or '.join(POINT_MASSES)}.",
                hint="Use --rule race, or --rule single --drafts 1.",
            )

    @property
    def races(self) -> bool:
        """Whether the text is that of plain decoding, whatever is drafted."""
        return self.rule == PLAIN or RULES[self.rule].invariant

    @property
    def feeds_draft(self) -> bool:
        """Whether rounds run the draft model."""
        return self.drafts > 0 and self.source == DRAFT

    @staticmethod
    def plain() -> Plan:
        """Return the plan of decoding with the target alone: its draft tree is the root and nothing else."""
        return Plan(PLAIN, 0, 0)

    @property
    def tree(self) -> DraftTree:
        """The topology of a round's drafts."""
        return DraftTree.paths(self.drafts, self.length) if self.drafts else DraftTree.chain(0)

    def __str__(self) -> str:
        if self.rule == PLAIN:
            return PLAIN
        return f"{self.rule} K={self.drafts} L={self.length}" + ("" if self.source == DRAFT else f" {self.source}")


PlanChoice = Plan | Literal["auto"]


def check_plan(choice: PlanChoice, manifest: Manifest) -> None:
    """Check that a bundle has what a plan drafts with.

    Args:
        choice: A plan, or ``auto``, which goes with every bundle.
        manifest: The bundle's manifest.

    Raises:
        UsageError: The plan needs the draft model, and the bundle has none.
    """
    if choice != AUTO and choice.feeds_draft and not manifest.has_draft:
        raise UsageError(
            f"The plan is {choice}, and the bundle has no draft.",
            hint="Use --plan auto or plain, --source lookup, or build a bundle with a draft: "
            "`spectr-export build TARGET --draft DRAFT`.",
        )


def check_call_tokens(call_tokens: int | None, menu: Sequence[Plan]) -> None:
    """Check that calls of one shape take the trees of all plans that rounds may take.

    Args:
        call_tokens: How many tokens every call feeds the target for each row; None if calls differ.
        menu: The plans.

    Raises:
        UsageError: A tree has more tokens, or there are more than the largest tree can have.
    """
    if call_tokens is not None and call_tokens > MAX_NODES:
        raise UsageError(
            f"Calls of {call_tokens} tokens are too large: a round feeds at most {MAX_NODES}.",
            hint=f"Use --call-shape ROWSx{MAX_NODES}, or call_tokens={MAX_NODES} in Python.",
        )
    largest = max(menu, key=lambda plan: plan.tree.size)
    if call_tokens is not None and call_tokens < largest.tree.size:
        raise UsageError(
            f"Calls of {call_tokens} tokens are too small for the plan {largest}: its tree has {largest.tree.size}, "
            "the last token of the text among them.",
            hint=f"Use --call-shape ROWSx{largest.tree.size}, or call_tokens={largest.tree.size} in Python.",
        )


def check_draft(asked: DraftChoice | None, choice: PlanChoice, manifest: Manifest) -> None:
    """Check that a plan can honour what a request asks to be drafted from.

    Plain decoding drafts nothing for any row, and takes every request. A race takes every source of which it has the
    models, and any length. The text that another rule writes depends on what is drafted, so there a request can only
    ask for what the plan says, or for nothing.

    Args:
        asked: What the request asks for; None if it leaves that to the plan.
        choice: A plan, or ``auto``.
        manifest: The bundle's manifest.

    Raises:
        RequestError: The plan cannot honour it.
    """
    if asked is None or asked.source is None or choice == Plan.plain():
        return
    if choice == AUTO or choice.races:
        runs_draft = manifest.has_draft if choice == AUTO else choice.feeds_draft
        if asked.source != DRAFT or runs_draft:
            return
        why = f"the plan {choice} does not run the draft" if manifest.has_draft else "the bundle has no draft"
        allowed = f"one of false, {', '.join(source for source in SOURCES if source != DRAFT)}"
    else:
        if asked.source == choice.source and asked.length in (None, choice.length):
            return
        why = f"the text of the plan {choice} depends on what is drafted"
        allowed = f"false, or {choice.source} with the length {choice.length} or none"
    length = "" if asked.length is None else f" with the length {asked.length}"
    raise RequestError(
        f"draft has the source {asked.source}{length}; {why}, so it must be {allowed}.",
        param="draft",
        code="unsupported_parameter",
        hint="Decode with --plan auto, which takes every source, and a bundle with a draft for the source draft.",
    )


def refusal_of(request: Request, choice: PlanChoice, manifest: Manifest) -> Failure | None:
    """Return the failure of a request that asks for what a plan cannot honour; see ``check_draft``."""
    try:
        check_draft(request.draft, choice, manifest)
    except RequestError as error:
        return Failure(request.id, error, request.choice)
    return None


def roles_of(plans: Sequence[Plan], manifest: Manifest) -> tuple[Role, ...]:
    """Return the roles of the models that some plans need: the draft only if one of them runs it."""
    return manifest.roles if any(plan.feeds_draft for plan in plans) else ("target",)
