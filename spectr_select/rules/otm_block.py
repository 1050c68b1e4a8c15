"""Block verification of a tree of independent drafts, by optimal transport at every text that the tree spells.

Block verification (arXiv 2403.10444) decides about a path as a whole, and optimal transport (SpecTr, arXiv 2310.15141)
about several drafts of one token; this rule does both. Nodes that spell the same text count as one: their children are
k drafts of the text's next token. Every text has a weight w, the probability that it is kept if all that is tested
before it fails; the root has the weight 1. With t and d the laws after a text, w t is transported to the k drafts as
in ``otm``: a draft x is proposed, each with a share of its own, and taken with probability ``min(1, w t(x) / a(x))``,
where a(x) is the probability that x is proposed. Let m be the probability with which a drafted token is taken by this,
given the drafts. It has the weight ``m / (1 - the m of its siblings tested before)``. With ``S = sum (w t - a)+`` the
text itself passes with probability ``S / (S + 1 - w)``, and a text without drafts with its weight.

Texts are tested in depth-first order, each after all below it, as in traversal verification (arXiv 2505.12398). The
first one to pass is accepted, and the correction is drawn from its ``(w t - a)+``. So a text is kept with its weight on
average over the drafts below it, and the tokens after it follow ``min(a, w t) + (w t - a)+ = w t``. This makes the rule
lossless for any plan of transport, as long as a is exact. For one path it is ``block``; for one token it is ``otm``.

The composition of transport plans down a tree whose masses are the weights of its prefixes is that of UniVer (arXiv
2605.04543), which has a closed form for drafts of which all but one are the most probable tokens.
"""

# B rows, G crowded texts, K nodes of a level, M nodes of the level above, N tree nodes, V vocabulary, X texts of all
# rows.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from spectr_select.chance import Chance, Role
from spectr_select.coins import ratio
from spectr_select.drawing import draw_iid
from spectr_select.law import normalised, or_else
from spectr_select.portion import portions
from spectr_select.recursion import at, first_of
from spectr_select.rule import Round, Rule
from spectr_select.rules.block import pass_chance
from spectr_select.rules.otm import propose
from spectr_select.selection import Selection, selection_at
from spectr_select.tree import DraftTree, as_index

# Half the bins of ``otm``, and half its time, for about a thousandth less acceptance.
_BINS = 64


@dataclass(frozen=True, slots=True)
class Fork:
    """Texts with the drafts of their next tokens.

    Attributes:
        target_XV: The target's law after each text; normalised float64.
        draft_XV: The law that its drafts were drawn from; normalised float64.
        weight_X1: The text's weight w.
        tokens_XK: The tokens of all nodes of the level below.
        active_XK: Which of them are drafts of this text.
    """

    target_XV: torch.Tensor
    draft_XV: torch.Tensor
    weight_X1: torch.Tensor
    tokens_XK: torch.Tensor
    active_XK: torch.Tensor


@dataclass(frozen=True, slots=True)
class Forks:
    """All texts of a level, whose laws are taken a few at a time.

    Attributes:
        drawn: The round.
        node_BM: The node of each text.
        parent_BM: A node that spells the text and has a child, whose draft law the drafts were drawn from.
        weight_BM: The text's weight w.
        tokens_BK: The tokens of the level below.
        active_BMK: Which of them are drafts of each text.
    """

    drawn: Round
    node_BM: torch.Tensor
    parent_BM: torch.Tensor
    weight_BM: torch.Tensor
    tokens_BK: torch.Tensor
    active_BMK: torch.Tensor

    def each(
        self, work: Callable[[Fork], tuple[torch.Tensor, torch.Tensor]], index_X: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the work returns for some of the texts, whose numbers count through all rows."""
        parts = portions(len(index_X), self.drawn.target_BNV.shape[2], index_X.device)
        shares, rests = zip(*(work(self._some(index_X[part])) for part in parts), strict=True)
        return torch.cat(shares), torch.cat(rests)

    def _some(self, index_X: torch.Tensor) -> Fork:
        row_X = index_X // self.node_BM.shape[1]
        return Fork(
            target_XV=normalised(_laws_at(self.drawn.target_BNV, row_X, self.node_BM.flatten()[index_X])),
            draft_XV=normalised(_laws_at(self.drawn.draft_BPV, row_X, self.parent_BM.flatten()[index_X])),
            weight_X1=self.weight_BM.flatten()[index_X][:, None],
            tokens_XK=self.tokens_BK[row_X],
            active_XK=self.active_BMK.flatten(0, 1)[index_X],
        )


@dataclass(frozen=True, slots=True)
class Level:
    """The nodes of a depth; of all nodes that spell a text the first stands for it.

    Attributes:
        first_BK: The place in the level of the first node that spells the same text as each node.
        weight_BK: The weight of each text; 0 for nodes that do not stand for one.
    """

    first_BK: torch.Tensor
    weight_BK: torch.Tensor


@dataclass(frozen=True, slots=True)
class Tested:
    """What became of the texts of a level once their drafts are known.

    Attributes:
        pass_BM: The probability that each text passes, given that everything below it has failed; 0 for nodes that do
            not stand for a text, since their weight is 0.
        count_BM: The number k of its drafts.
        parent_BM: A node that spells the text and has a child, whose draft law the drafts were drawn from.
    """

    pass_BM: torch.Tensor
    count_BM: torch.Tensor
    parent_BM: torch.Tensor


def _select(drawn: Round, chance: Chance) -> Selection:
    tree, root_B1 = drawn.tree, torch.zeros_like(drawn.tokens_BN[:, :1])
    if not tree.depth:
        return selection_at(tree, root_B1[:, 0], chance.pick(Role.EMIT, 0, drawn.target_BNV[:, 0]))
    levels, tests = [Level(root_B1, torch.ones_like(root_B1, dtype=torch.float64))], list[Tested]()
    for depth in range(tree.depth):
        level, tested = _step(drawn, depth, levels[-1])
        levels.append(level)
        tests.append(tested)
    weight_BN = torch.cat([level.weight_BK for level in levels], 1)
    pass_BN = torch.cat([*(tested.pass_BM for tested in tests), levels[-1].weight_BK], 1)
    order_BN = _depth_first(tree, [level.first_BK for level in levels])
    # The root comes last and passes in any case, so it needs no coin.
    chosen_B1 = chance.first(1, pass_BN.gather(1, order_BN)[:, :-1])[:, None]
    node_B1 = order_BN.gather(1, chosen_B1)
    law_BV = _correction(drawn, node_B1, weight_BN.gather(1, node_B1), tests)
    return selection_at(tree, node_B1[:, 0], chance.pick(Role.EMIT, 0, law_BV))


def _step(drawn: Round, depth: int, texts: Level) -> tuple[Level, Tested]:
    """Transport the texts of a level to the level below."""
    tree = drawn.tree
    above, below = tree.levels[depth], tree.levels[depth + 1]
    device = drawn.tokens_BN.device
    parent_K = as_index((tree.parents[node] - above.start for node in below), device)
    text_BK = texts.first_BK.index_select(1, parent_K)
    active_BMK = text_BK[:, None] == as_index(range(len(above)), device)[:, None]
    parent_BM = above.start + parent_K[first_of(active_BMK.flatten(0, 1))].view_as(texts.first_BK)
    tokens_BK = drawn.tokens_BN[:, below.start : below.stop]
    node_BM = as_index(above, device).expand_as(parent_BM)
    share_XK, left_X1 = transport(Forks(drawn, node_BM, parent_BM, texts.weight_BK, tokens_BK, active_BMK))
    pass_BM = pass_chance(texts.weight_BK, left_X1.view_as(texts.weight_BK))
    count_BM = active_BMK.sum(2)
    tested = Tested(torch.where(count_BM > 0, pass_BM, texts.weight_BK), count_BM, parent_BM)
    return _merged(text_BK, tokens_BK, share_XK.view_as(active_BMK).sum(1)), tested


def _merged(text_BK: torch.Tensor, tokens_BK: torch.Tensor, share_BK: torch.Tensor) -> Level:
    """Return the texts of a level, given the text above each node, its token and the share that it is taken with."""
    siblings_BKK = text_BK[:, :, None] == text_BK[:, None]
    same_BKK = siblings_BKK & (tokens_BK[:, :, None] == tokens_BK[:, None])
    first_BK = first_of(same_BKK.flatten(0, 1)).view_as(text_BK)
    stands_BK = first_BK == as_index(range(text_BK.shape[1]), text_BK.device)
    taken_BK = (same_BKK * share_BK[:, None]).sum(2) * stands_BK
    before_BK = (siblings_BKK.tril(-1) * taken_BK[:, None]).sum(2)
    return Level(first_BK, torch.where(taken_BK > 0, taken_BK / (1 - before_BK), 0).clamp(max=1))


def transport(forks: Forks) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the probability that each draft is taken, given all drafts [X, K], and ``S = sum (w t - a)+`` [X, 1]."""
    rows, texts, nodes = forks.active_BMK.shape
    device = forks.node_BM.device
    share_XK, left_X1 = forks.each(_alone, as_index(range(rows * texts), device))
    # Of K nodes at most K / 2 texts have several drafts, so this many texts of a row, with the most drafts, get a plan.
    crowded = min(texts, nodes // 2)
    if crowded:
        row_B1 = as_index(range(0, rows * texts, texts), device)[:, None]
        index_G = (row_B1 + forks.active_BMK.sum(2).topk(crowded, dim=1).indices).flatten()
        shared_GK, rest_G1 = forks.each(_planned, index_G)
        share_XK, left_X1 = share_XK.index_copy(0, index_G, shared_GK), left_X1.index_copy(0, index_G, rest_G1)
    return share_XK, left_X1


def _alone(fork: Fork) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``transport`` to a single draft, which is proposed for certain: a is d."""
    wanted_XK = fork.weight_X1 * fork.target_XV.gather(1, fork.tokens_XK)
    share_XK = ratio(wanted_XK, fork.draft_XV.gather(1, fork.tokens_XK)) * fork.active_XK
    return share_XK, (fork.weight_X1 * fork.target_XV).sub_(fork.draft_XV).clamp_(min=0).sum(1, keepdim=True)


def _planned(fork: Fork) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``transport`` by the plan of ``otm``."""
    proposal = propose(fork.target_XV, fork.draft_XV, _count(fork.active_XK.sum(1)), _BINS)
    bin_XK = proposal.bin_BV.gather(1, fork.tokens_XK)
    weight_XK = proposal.weight_BM.gather(1, bin_XK) * fork.active_XK
    share_XK = weight_XK / weight_XK.sum(1, keepdim=True).clamp(min=1e-300)
    proposed_XK = proposal.chance_BM.gather(1, bin_XK) * fork.draft_XV.gather(1, fork.tokens_XK)
    wanted_XK = fork.weight_X1 * fork.target_XV.gather(1, fork.tokens_XK)
    taken_XK = share_XK * torch.where(wanted_XK < proposed_XK, wanted_XK / proposed_XK, 1)
    proposed_XV = proposal.chance_BM.gather(1, proposal.bin_BV) * fork.draft_XV
    return taken_XK, (fork.weight_X1 * fork.target_XV).sub_(proposed_XV).clamp_(min=0).sum(1, keepdim=True)


def _count(count_X: torch.Tensor) -> torch.Tensor:
    return count_X.clamp(min=1).double()


def _depth_first(tree: DraftTree, firsts: list[torch.Tensor]) -> torch.Tensor:
    """Return all nodes in depth-first order of their texts, each after all below it; int64 [B, N].

    Args:
        tree: The topology.
        firsts: ``Level.first_BK`` of every level.
    """
    key_BN = torch.zeros_like(firsts[0]).expand(-1, tree.size)
    table_ND = tree.path_table(key_BN.device)
    for depth in range(1, tree.depth + 1):
        level, ancestor_N = tree.levels[depth], table_ND[:, depth - 1]
        digit_BN = firsts[depth].index_select(1, (ancestor_N - level.start).clamp(min=0))
        # A text that ends above this depth comes after all texts that go on.
        key_BN = key_BN * (len(level) + 1) + torch.where(ancestor_N < 0, len(level), digit_BN)
        # Ranks instead of the keys themselves, which would outgrow an integer in deep trees.
        key_BN = torch.searchsorted(key_BN.sort(1).values, key_BN)
    return key_BN.sort(dim=1, stable=True).indices


def _correction(drawn: Round, node_B1: torch.Tensor, weight_B1: torch.Tensor, tests: list[Tested]) -> torch.Tensor:
    """Return ``(w t - a)+`` of the accepted text, and t after a text without drafts."""
    target_BV = normalised(at(drawn.target_BNV, node_B1[:, 0]))
    count_BN = torch.nn.functional.pad(torch.cat([tested.count_BM for tested in tests], 1), (0, drawn.tree.size))
    count_B1 = count_BN.gather(1, node_B1)
    parent_BN = torch.cat([tested.parent_BM for tested in tests], 1)
    parent_B1 = parent_BN.gather(1, node_B1.clamp(max=parent_BN.shape[1] - 1))
    draft_BV = normalised(at(drawn.draft_BPV, parent_B1[:, 0]))
    proposed_BV = torch.where(count_B1 > 0, draft_BV, 0)
    if not drawn.tree.is_chain:
        proposal = propose(target_BV, draft_BV, _count(count_B1[:, 0]), _BINS)
        planned_BV = proposal.chance_BM.gather(1, proposal.bin_BV) * draft_BV
        proposed_BV = torch.where(count_B1 > 1, planned_BV, proposed_BV)
    return or_else((weight_B1 * target_BV).sub_(proposed_BV).clamp_(min=0), target_BV)


def _laws_at(law_BNV: torch.Tensor, row_X: torch.Tensor, node_X: torch.Tensor) -> torch.Tensor:
    """Return the laws after some nodes of some rows, [X, V]."""
    if not law_BNV.is_contiguous():
        return law_BNV[row_X, node_X]
    # Faster on a CPU, as in ``at``.
    return law_BNV.flatten(0, 1).index_select(0, row_X * law_BNV.shape[1] + node_X)


OTM_BLOCK = Rule(name="otm-block", drawing="iid", draw=draw_iid, select=_select)
