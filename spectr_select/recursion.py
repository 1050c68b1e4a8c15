"""From a rule for one token to a rule for a tree: the recursion over positions (SpecTr, arXiv 2310.15141, algorithm 3).

At every depth the nodes that spell the emitted text are active. Their children are the candidates, the rule emits the
next token, and every candidate that equals it stays active, also one whose own coin failed. Where none does, the token
was the correction; below a leaf it is the bonus, drawn from the target.
"""

# B rows, N tree nodes, K candidates, V vocabulary.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from spectr_select.chance import Chance
from spectr_select.noise import Role
from spectr_select.rule import Round
from spectr_select.selection import Selection, selection_at
from spectr_select.tree import as_index


@dataclass(frozen=True, slots=True)
class Step:
    """The choice of one token.

    Attributes:
        target_BV: The target's law after the emitted text.
        draft_BV: The law that the candidates were drawn from.
        tokens_BK: The candidates' tokens: the nodes of one level.
        active_BK: Which of them continue the emitted text.
        first: Node number of the first candidate.
        depth: Their depth.
    """

    target_BV: torch.Tensor
    draft_BV: torch.Tensor
    tokens_BK: torch.Tensor
    active_BK: torch.Tensor
    first: int
    depth: int


@dataclass(frozen=True, slots=True)
class TokenRule:
    """A rule for one token.

    Attributes:
        emit: The next token, ``(step, chance) -> token_B``; the target's own where no candidate is active.
        bonus: The token after a whole path, ``(target_BV, depth, chance) -> token_B``.
    """

    emit: Callable[[Step, Chance], torch.Tensor]
    bonus: Callable[[torch.Tensor, int, Chance], torch.Tensor]

    def select(self, drawn: Round, chance: Chance) -> Selection:
        """Follow the emitted tokens down the tree as far as drafts equal them."""
        tree, tokens_BN = drawn.tree, drawn.tokens_BN
        active_BK = torch.ones_like(tokens_BN[:, :1], dtype=torch.bool)
        running_B, node_B, token_B = active_BK[:, 0], torch.zeros_like(tokens_BN[:, 0]), tokens_BN[:, 0]
        for depth in range(1, tree.depth + 1):
            step = _step(drawn, depth, node_B, active_BK)
            token_B = torch.where(running_B, self.emit(step, chance), token_B)
            active_BK = step.active_BK & (step.tokens_BK == token_B[:, None])
            running_B = active_BK.any(1)
            # argmax returns the first of equal values: the active node with the smallest number.
            node_B = torch.where(running_B, step.first + active_BK.int().argmax(1), node_B)
        bonus_B = self.bonus(at(drawn.target_BNV, node_B), tree.depth + 1, chance)
        return selection_at(tree, node_B, torch.where(running_B, bonus_B, token_B))


def at(law_BNV: torch.Tensor, node_B: torch.Tensor) -> torch.Tensor:
    """Every row's law at its own node [B, V]."""
    return law_BNV[torch.arange(len(node_B), device=node_B.device), node_B]


def bonus_by_pick(target_BV: torch.Tensor, depth: int, chance: Chance) -> torch.Tensor:
    """The bonus token as a draw from the target."""
    return chance.pick(Role.EMIT, depth, target_BV)


def _step(drawn: Round, depth: int, node_B: torch.Tensor, active_BK: torch.Tensor) -> Step:
    tree = drawn.tree
    above, level = tree.levels[depth - 1], tree.levels[depth]
    parent_K = as_index((tree.parents[node] for node in level), node_B.device)
    active_BK = active_BK[:, parent_K - above.start]
    # Any active parent has the law: they spell one text. A ragged tree's first active node may have no children.
    parent_B = parent_K[active_BK.int().argmax(1)]
    return Step(
        target_BV=at(drawn.target_BNV, node_B),
        draft_BV=at(drawn.draft_BPV, parent_B),
        tokens_BK=drawn.tokens_BN[:, level.start : level.stop],
        active_BK=active_BK,
        first=level.start,
        depth=depth,
    )
