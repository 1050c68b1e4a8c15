"""Greedy multi-path block verification (arXiv 2602.16961): block verification of the best of K independent paths.

From the root on, the walk goes to the child whose token has the largest ``t / d``. So the walked path is the largest of
K independent paths when they are compared by the ranks of their tokens, first token first. Its law is therefore known.
For a walked prefix of mass x, let A be the mass of the paths that rank below the prefix, ``y = x d(tokens ranking below
token)`` and ``z = x d(token)``. The next token of the walk has the law

    d_skew(token) = [(A + y + z)^K - (A + y)^K] / [(A + x)^K - A^K],

and the path is verified as a block against it. Tokens of equal ``t / d`` share a rank and divide the mass that
``d_skew`` gives to the rank in proportion to their d. After such a tie the first path that has one of these tokens is
walked alone, as an ordinary draft, because the number of other paths with the same token depends on how the tie was
broken.
"""

# B rows, K paths, L drafts, V vocabulary.
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from spectr_select.chance import Chance, Role
from spectr_select.drawing import draw_iid
from spectr_select.law import normalised, or_else
from spectr_select.recursion import at
from spectr_select.rule import Round, Rule
from spectr_select.rules.block import Link, verify_block
from spectr_select.selection import Selection, selection_at


@dataclass(frozen=True, slots=True)
class Ranks:
    """The tokens in ascending order of ``t / d``.

    Attributes:
        rank_BV: The rank of each token; tokens of equal ``t / d`` share a rank.
        mass_BR: The draft's mass below each rank, with the total as the last entry: rank r has the mass between entries
            r and r + 1.
    """

    rank_BV: torch.Tensor
    mass_BR: torch.Tensor


@dataclass(frozen=True, slots=True)
class Walk:
    """The walk from the root, at a node.

    Attributes:
        node_B: The node.
        active_BK: The paths that the walk may follow from here.
        below_B1: The mass of the paths that rank below the walked prefix.
        mass_B1: The mass of the prefix.
        alone_B1: Whether a single path is walked alone since a tie.
    """

    node_B: torch.Tensor
    active_BK: torch.Tensor
    below_B1: torch.Tensor
    mass_B1: torch.Tensor
    alone_B1: torch.Tensor


def ranks(target_BV: torch.Tensor, draft_BV: torch.Tensor) -> Ranks:
    """Rank the tokens by ``t / d`` in float32: the rule is lossless for any ranks that depend only on the laws."""
    rows, vocabulary = target_BV.shape
    ratio_BV = (target_BV / draft_BV).float().nan_to_num(0, posinf=torch.inf)
    # Non-negative floats have the same order as their bits read as integers. With the row number in the bits above, all
    # rows are sorted as one vector of integers, several times faster than floats or than the rows of a matrix.
    row_B1 = torch.arange(rows, device=ratio_BV.device)[:, None]
    sorted_X, order_X = (ratio_BV.view(torch.int32).long() + (row_B1 << 32)).flatten().sort()
    sorted_BV, order_BV = sorted_X.view(rows, vocabulary), order_X.view(rows, vocabulary) - row_B1 * vocabulary
    new_BV = torch.nn.functional.pad(sorted_BV[:, 1:] != sorted_BV[:, :-1], (1, 0))
    rank_BV = new_BV.cumsum(1)
    mass_BR = draft_BV.new_zeros((rows, vocabulary)).scatter_add(1, rank_BV, draft_BV.gather(1, order_BV)).cumsum(1)
    by_token_BV = torch.empty_like(rank_BV).scatter(1, order_BV, rank_BV)
    return Ranks(by_token_BV, torch.nn.functional.pad(mass_BR, (1, 0)))


def _select(drawn: Round, chance: Chance) -> Selection:
    tree, nodes, drafts = drawn.tree, [torch.zeros_like(drawn.tokens_BN[:, 0])], list[torch.Tensor]()
    if not tree.depth:
        return selection_at(tree, nodes[0], chance.pick(Role.EMIT, 0, drawn.target_BNV[:, 0]))

    def path() -> Iterator[Link]:
        walk = _start(drawn)
        for level in tree.levels[1:]:
            link, walk = _walk_on(walk, level, drawn)
            nodes.append(walk.node_B)
            drafts.append(link.draft_BV)
            yield link

    count_B, weight_B1 = verify_block(path(), chance)
    node_B = torch.stack(nodes, 1).gather(1, count_B[:, None])[:, 0]
    target_BV, draft_BV = normalised(at(drawn.target_BNV, node_B)), torch.zeros_like(drafts[0])
    # After a whole path there is no draft, and the bonus is drawn from the target itself.
    for count, skewed_BV in enumerate(drafts):
        draft_BV = torch.where((count_B == count)[:, None], skewed_BV, draft_BV)
    law_BV = or_else((weight_B1 * target_BV).sub_(draft_BV).clamp_(min=0), target_BV)
    return selection_at(tree, node_B, chance.pick(Role.EMIT, 0, law_BV))


def _start(drawn: Round) -> Walk:
    nothing_B1 = torch.zeros_like(drawn.target_BNV[:, 0, :1], dtype=torch.float64)
    return Walk(
        node_B=torch.zeros_like(drawn.tokens_BN[:, 0]),
        active_BK=torch.ones_like(drawn.tokens_BN[:, drawn.tree.levels[-1].start :], dtype=torch.bool),
        below_B1=nothing_B1,
        mass_B1=nothing_B1 + 1,
        alone_B1=nothing_B1 > 0,
    )


def _walk_on(walk: Walk, level: range, drawn: Round) -> tuple[Link, Walk]:
    target_BV = normalised(at(drawn.target_BNV, walk.node_B))
    draft_BV = normalised(at(drawn.draft_BPV, walk.node_B))
    order = ranks(target_BV, draft_BV)
    tokens_BK = drawn.tokens_BN[:, level.start : level.stop]
    # argmax returns the first of equal values, hence the first path of the highest rank.
    path_B1 = torch.where(walk.active_BK, order.rank_BV.gather(1, tokens_BK), -1).argmax(1, keepdim=True)
    token_B1 = tokens_BK.gather(1, path_B1)
    rank_B1 = order.rank_BV.gather(1, token_B1)
    alone_B1 = walk.alone_B1 | is_tied(order, rank_B1)
    path_K = torch.arange(tokens_BK.shape[1], device=tokens_BK.device)
    link = Link(target_BV, torch.where(walk.alone_B1, draft_BV, _skewed(draft_BV, order, walk)), token_B1)
    return link, Walk(
        node_B=level.start + path_B1[:, 0],
        active_BK=torch.where(alone_B1, path_K == path_B1, walk.active_BK & (tokens_BK == token_B1)),
        below_B1=walk.below_B1 + walk.mass_B1 * order.mass_BR.gather(1, rank_B1),
        mass_B1=walk.mass_B1 * draft_BV.gather(1, token_B1),
        alone_B1=alone_B1,
    )


def is_tied(order: Ranks, rank_B1: torch.Tensor) -> torch.Tensor:
    """Return whether several tokens share the rank; [B, 1]."""
    return (order.rank_BV == rank_B1).sum(1, keepdim=True) > 1


def _skewed(draft_BV: torch.Tensor, order: Ranks, walk: Walk) -> torch.Tensor:
    """Return ``d_skew``, the law of the walk's next token, from sums, since differences of powers lose precision."""
    count, below_B1, mass_B1 = walk.active_BK.shape[1], walk.below_B1, walk.mass_B1
    reached_BR = below_B1 + mass_B1 * order.mass_BR
    whole_B1 = _power_sum(below_B1 + mass_B1, below_B1, count)
    raised_BR = _power_sum(reached_BR[:, 1:], reached_BR[:, :-1], count) / whole_B1
    return draft_BV * raised_BR.gather(1, order.rank_BV)


def _power_sum(high: torch.Tensor, low: torch.Tensor, count: int) -> torch.Tensor:
    """Return ``(high^K - low^K) / (high - low)``."""
    total = torch.ones_like(high)
    for power in range(1, count):
        total.mul_(high).add_(low**power)
    return total


GBV = Rule(name="gbv", drawing="iid", draw=draw_iid, select=_select, trees="paths")
