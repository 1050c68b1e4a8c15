"""Rules that were derived from papers and are no rules of the package, for `newest.py` to judge beside those that are.

- `univer`: conditional optimal transport down a tree of distinct siblings (UniVer, arXiv 2605.04543), all but the last
  of which are the draft's most probable tokens. The paper itself could not be read: this is derived from its abstract
  and from what public code does.
- `spectr-gbv` and `spectr-gbv-residual`: the acceptance of whole prefixes of K paths by formulas that public code
  attributes to SpecTr-GBV (arXiv 2604.25925), once as found and once with the correction that its acceptance would
  need. Neither is lossless; `newest.py` says by how much.
"""

# B rows, K children or paths, V vocabulary.
from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from spectr_select import RULES, DraftTree, Rule, Selection
from spectr_select.chance import Chance, Role
from spectr_select.coins import columns, ratio
from spectr_select.drawing import draw_iid, draw_top
from spectr_select.law import normalised, or_else, outside
from spectr_select.recursion import at
from spectr_select.rule import Round
from spectr_select.rules.block import pass_chance
from spectr_select.selection import selection_at
from spectr_select.tree import as_index


def univer(drawn: Round, chance: Chance) -> Selection:
    """Transport every node's target, scaled by the node's weight, to its children; then test from the leaves up."""
    tree = drawn.tree
    weights = [torch.ones_like(drawn.target_BNV[:, 0, :1], dtype=torch.float64)] * tree.size
    passes, laws = [], []
    for node in range(tree.size):
        children = [child for child, parent in enumerate(tree.parents) if parent == node]
        law_BV, share_BK = normalised(drawn.target_BNV[:, node]), torch.empty(0)
        passes.append(weights[node])
        if children:
            tokens_BK = drawn.tokens_BN[:, children]
            share_BK, left_BV = membership(law_BV, normalised(drawn.draft_BPV[:, node]), weights[node], tokens_BK)
            passes[node] = pass_chance(weights[node], left_BV.sum(1, keepdim=True))
            law_BV = or_else(left_BV, law_BV)
        laws.append(law_BV)
        before_B1 = torch.zeros_like(weights[0])
        for child, share_B1 in zip(children, columns(share_BK) if children else [], strict=True):
            weights[child] = torch.where(share_B1 > 0, share_B1 / (1 - before_B1), 0).clamp(max=1)
            before_B1 = before_B1 + share_B1
    order = list(_below(tree, 0))
    coins_BN = torch.cat([passes[node] for node in order[:-1]] or [weights[0][:, :0]], 1)
    chosen_B = chance.first(1, coins_BN) if len(order) > 1 else torch.zeros_like(drawn.tokens_BN[:, 0])
    node_B = as_index(order, chosen_B.device)[chosen_B]
    return selection_at(tree, node_B, chance.pick(Role.EMIT, 0, at(torch.stack(laws, 1), node_B)))


def membership(
    target_BV: torch.Tensor, draft_BV: torch.Tensor, weight_B1: torch.Tensor, tokens_BK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the probability that each child is taken, given all children [B, K], and what is left of w t [B, V].

    The last child z is drawn from d', the draft's law outside the others, T. It is taken with
    ``min(1, w t(z) / d'(z))``; if it is not, a child x of T is taken with ``w t(x) / (1 - sum min(w t, d'))``, the sum
    being over the tokens outside T. So T loses nothing, and ``(w t - d')+`` is left outside it.
    """
    top_BV = torch.zeros_like(draft_BV).scatter(1, tokens_BK[:, :-1], 1) > 0
    rest_BV, wanted_BV = outside(draft_BV, top_BV), weight_B1 * target_BV
    last_B1 = ratio(wanted_BV.gather(1, tokens_BK[:, -1:]), rest_BV.gather(1, tokens_BK[:, -1:]))
    missed_B1 = 1 - torch.where(top_BV, 0, torch.minimum(wanted_BV, rest_BV)).sum(1, keepdim=True)
    others_BK = wanted_BV.gather(1, tokens_BK[:, :-1]) * (1 - last_B1) / missed_B1.clamp(min=1e-300)
    left_BV = torch.where(top_BV, 0, (wanted_BV - rest_BV).clamp(min=0))
    return torch.cat([others_BK, last_B1], 1), left_BV


def _below(tree: DraftTree, node: int) -> Iterator[int]:
    for child, parent in enumerate(tree.parents):
        if parent == node:
            yield from _below(tree, child)
    yield node


def prefixes(drawn: Round, chance: Chance, matching: bool) -> Selection:
    """Accept a prefix p of one of K paths by its masses T(p) and D(p) under target and draft.

    With ``e = (1 - min(1, D / T))^K`` a whole path is to be accepted with mass ``T (1 - e)``, of the mass
    ``1 - (1 - D)^K`` with which it is drafted, and a shorter prefix p with probability

        [sum_x T(p x) e(p x) - T(p) e(p)] / [1 - (1 - D(p))^K - sum_x T(p x) (1 - e(p x))].

    Paths are tested in turn, each for prefixes longer than what has been accepted; a prefix that has been rejected is
    not tested again. The correction is drawn from ``T (1 - min(1, D / T)^K)``, or, where it is to match the acceptance,
    from ``T e``.
    """
    tree = drawn.tree
    paths, depth = len(tree.levels[1]), tree.depth
    node_B = torch.zeros_like(drawn.tokens_BN[:, 0])
    length_B, done_B = node_B, node_B > 0
    mass: dict[int, tuple[torch.Tensor, torch.Tensor]] = {0: (torch.ones_like(node_B[:, None]).double(),) * 2}
    rejected: dict[int, torch.Tensor] = {}
    for path in range(paths):
        begun_B = length_B
        for length in range(1, depth + 1):
            node = tree.levels[length][path]
            target_B1, draft_B1 = mass[tree.parents[node]]
            laws = (normalised(law_BNV[:, tree.parents[node]]) for law_BNV in (drawn.target_BNV, drawn.draft_BPV))
            token_B1 = drawn.tokens_BN[:, node : node + 1]
            mass[node] = tuple(
                mass_B1 * law_BV.gather(1, token_B1)
                for mass_B1, law_BV in zip((target_B1, draft_B1), laws, strict=True)
            )
            seen_B = torch.zeros_like(done_B)
            for other in list(tree.levels[length])[:path]:
                same = [drawn.tokens_BN[:, one] == drawn.tokens_BN[:, two] for one, two in _pairs(tree, node, other)]
                seen_B |= rejected[other] & torch.stack(same).all(0)
            open_B = ~done_B & (length > begun_B) & (~seen_B if length < depth else True)
            accept_B1 = _prefix_chance(drawn, node, mass[node], paths, length == depth)
            passed_B = open_B & (chance.first(node, accept_B1 * open_B[:, None]) == 0)
            rejected[node] = open_B & ~passed_B
            node_B, length_B = torch.where(passed_B, node, node_B), torch.where(passed_B, length, length_B)
            done_B = done_B | (passed_B & (length == depth))
    target_B1, draft_B1 = (torch.stack([mass[n][side] for n in range(tree.size)], 1)[:, :, 0] for side in (0, 1))
    target_B1, draft_B1 = (mass_BN.gather(1, node_B[:, None]) for mass_BN in (target_B1, draft_B1))
    law_BV = normalised(at(drawn.target_BNV, node_B))
    draft_BV = normalised(at(drawn.draft_BPV, node_B.clamp(max=tree.inner - 1)))
    covered_BV = ratio(draft_B1 * draft_BV, target_B1 * law_BV)
    left_BV = law_BV * ((1 - covered_BV) ** paths if matching else 1 - covered_BV**paths)
    law_BV = torch.where((length_B < depth)[:, None], or_else(left_BV, law_BV), law_BV)
    return selection_at(tree, node_B, chance.pick(Role.EMIT, 0, law_BV))


def _pairs(tree: DraftTree, node: int, other: int) -> Iterator[tuple[int, int]]:
    return zip(tree.path(node), tree.path(other), strict=True)


def _prefix_chance(
    drawn: Round, node: int, mass: tuple[torch.Tensor, torch.Tensor], paths: int, whole: bool
) -> torch.Tensor:
    target_B1, draft_B1 = mass
    here_B1 = target_B1 * (1 - ratio(draft_B1, target_B1)) ** paths
    drafted_B1 = 1 - (1 - draft_B1) ** paths
    if whole:
        return ((target_B1 - here_B1) / drafted_B1).nan_to_num(0).clamp(0, 1)
    target_BV = target_B1 * normalised(drawn.target_BNV[:, node])
    missed_BV = target_BV * (1 - ratio(draft_B1 * normalised(drawn.draft_BPV[:, node]), target_BV)) ** paths
    missed_B1 = missed_BV.sum(1, keepdim=True)
    return ((missed_B1 - here_B1) / (drafted_B1 - target_B1 + missed_B1)).nan_to_num(0).clamp(0, 1)


CANDIDATES = {
    rule.name: rule
    for rule in (
        Rule("univer", "top", draw_top, univer),
        Rule("spectr-gbv", "iid", draw_iid, partial(prefixes, matching=False), trees="paths"),
        Rule("spectr-gbv-residual", "iid", draw_iid, partial(prefixes, matching=True), trees="paths"),
    )
}


@contextmanager
def candidates() -> Iterator[None]:
    """Have the candidates among the rules while the block runs."""
    RULES.update(CANDIDATES)
    try:
        yield
    finally:
        for name in CANDIDATES:
            del RULES[name]
