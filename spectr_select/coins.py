"""Token rules that toss a coin for every candidate and draw from a residual where all of them fail.

The residual of all these rules is what the target has over a multiple of the draft, ``(t - c d)+``. It has nothing on a
candidate that can fail, so the correction is no draft and ends the round. The way down the tree therefore takes coins
alone; the law of the last token is made once, after it.
"""

# B rows, K candidates, V vocabulary.
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from spectr_select.chance import Chance, Role
from spectr_select.recursion import Step, at, go_on, start, step_at
from spectr_select.rule import Round
from spectr_select.selection import Selection, selection_at


@dataclass(frozen=True, slots=True)
class Coins:
    """What a rule does with given candidates.

    Attributes:
        accept_BK: Probability that a candidate is accepted once all before it were rejected; 0 where not active.
        scale_B: Multiple c of the draft's weights in this choice.
    """

    accept_BK: torch.Tensor
    scale_B: torch.Tensor


Residual = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class CoinRule:
    """A rule that tests candidate by candidate.

    Attributes:
        toss: The coins of a step.
        residual: Weights of the token after so many rejected candidates, ``(target_BV, draft_BV, scale_B, k_B)``; the
            target's own where none was tested, ``k = 0``.
    """

    toss: Callable[[Step], Coins]
    residual: Residual

    def select(self, drawn: Round, chance: Chance) -> Selection:
        """Follow the accepted tokens down the tree, then draw one more."""
        node_B, active_BK = start(drawn)
        running_B, parent_B = active_BK[:, 0], node_B
        scale_B, k_B = torch.ones_like(node_B, dtype=torch.float64), node_B
        for depth in range(1, drawn.tree.depth + 1):
            step = step_at(drawn, depth, node_B, active_BK)
            coins = self.toss(step)
            # The coins of the last step that a row takes part in say what its residual is.
            parent_B = torch.where(running_B, step.parent_B, parent_B)
            scale_B = torch.where(running_B, coins.scale_B, scale_B)
            k_B = torch.where(running_B, step.active_BK.sum(1), k_B)
            active_BK = accepted(step, chance.first(step.first, coins.accept_BK))
            running_B, node_B = go_on(step, active_BK, node_B)
        target_BV = at(drawn.target_BNV, node_B)
        if drawn.tree.depth:
            draft_BV = at(drawn.draft_BPV, parent_B)
            target_BV = self.residual(target_BV, draft_BV, scale_B, k_B.masked_fill(running_B, 0).double())
        return selection_at(drawn.tree, node_B, chance.pick(Role.EMIT, 0, target_BV))


def accepted(step: Step, chosen_B: torch.Tensor) -> torch.Tensor:
    """The candidates that spell the accepted one; [B, K]."""
    count = step.tokens_BK.shape[1]
    token_B1 = step.tokens_BK.gather(1, chosen_B.clamp(max=count - 1)[:, None])
    return step.active_BK & (step.tokens_BK == token_B1) & (chosen_B < count)[:, None]


def columns(some_BK: torch.Tensor) -> list[torch.Tensor]:
    """One [B, 1] for every candidate."""
    return [some_BK[:, place : place + 1] for place in range(some_BK.shape[1])]


def ratio(wanted_BK: torch.Tensor, offered_BK: torch.Tensor) -> torch.Tensor:
    """Acceptance probability ``min(1, wanted / offered)``; 0 for what is not offered."""
    return torch.where(offered_BK > 0, wanted_BK / offered_BK, 0).clamp(max=1)
