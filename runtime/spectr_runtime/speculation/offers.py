"""Drafts that are given to rows of a round: as tensors before it, and what became of them after it."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from spectr_runtime.drafting.proposal import Proposal
from spectr_runtime.rows.drafting import DRAFT, NOTHING, Drafted, SourceName
from spectr_runtime.rows.row import Row
from spectr_runtime.speculation.plan import Plan

# For each row the drafts that are given to it, or that it is to draft nothing; None to draft from the plan's source.
Offers = Sequence[Proposal | None]


def gives(plan: Plan, offers: Offers) -> bool:
    """Return whether something is given to rows, and not all of them draft from the draft model as the plan says."""
    return plan.drafts > 0 and not (plan.feeds_draft and all(offer is None for offer in offers))


def limit_of(plan: Plan, row: Row | None, offer: Proposal | None) -> int:
    """Return how many drafts a row may accept; without a race, what is accepted can only be forbidden as a whole."""
    if row is None or _source(plan, offer) is None:
        return 0
    if offer is None or not plan.races:
        return plan.length
    if offer.paths:
        return min(offer.depth, plan.length)
    choice = row.request.draft
    return min(choice.length, plan.length) if choice is not None and choice.length is not None else plan.length


def drafted_of(plan: Plan, row: Row, offer: Proposal | None, accepted: int) -> Drafted:
    """Return what a row drafted in a round that accepted so many of its tokens."""
    source = _source(plan, offer) if plan.drafts else None
    if source is None:
        return NOTHING
    proposed = limit_of(plan, row, offer)
    if offer is not None and offer.paths:  # what fills the tree behind them may be accepted too, by chance
        proposed = max(min(offer.depth, proposed), accepted)
    return Drafted(source, proposed, accepted)


def paths_of(
    plan: Plan, drafted: Drafted, offer: Proposal | None, nodes_N: torch.Tensor
) -> tuple[tuple[int, ...], ...]:
    """Return the paths that a row drafted, without those that repeat others to fill the tree.

    Args:
        plan: The plan of the round.
        drafted: What ``drafted_of`` says of the row.
        offer: What was given to the row.
        nodes_N: The tokens of the row's tree; they are waited for.
    """
    if drafted.source is None:
        return ()
    if offer is not None and offer.paths:
        return offer.cut(plan.drafts, plan.length)
    levels = nodes_N[1:].view(plan.length, plan.drafts)[: drafted.proposed]
    return tuple(map(tuple, levels.T.tolist()))


def _source(plan: Plan, offer: Proposal | None) -> SourceName | None:
    if offer is not None and (offer.source is None or offer.paths):
        return offer.source
    return DRAFT if plan.feeds_draft else None


def nodes_of(plan: Plan, offer: Proposal | None) -> list[int]:
    """Return the tokens of the nodes of a tree of paths, level by level; -1 where there are none."""
    paths = (offer and offer.cut(plan.drafts, plan.length)) or ((),)
    tokens = [-1]
    for depth in range(plan.length):
        for drafted in range(plan.drafts):
            path = paths[drafted % len(paths)]
            tokens.append(path[depth] if depth < len(path) else -1)
    return tokens
