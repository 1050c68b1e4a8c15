"""Token rules that accept each candidate with a probability of its own and correct from a residual if all are rejected.

The residual of these rules is ``(t - c d)+``, by which the target exceeds a multiple of the draft. It gives no weight
to a candidate that can be rejected, so a correction never equals a draft and always ends the round. The walk down the
tree therefore needs only coins; the law of the last token is computed once, at the end of the walk.
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
    """The probabilities with which a rule accepts given candidates.

    Attributes:
        accept_BK: The probability that a candidate is accepted, given that all before it were rejected; 0 for
            candidates that are not active.
        scale_B: The multiple c of the draft's weights in the residual of this choice.
    """

    accept_BK: torch.Tensor
    scale_B: torch.Tensor


Residual = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class CoinRule:
    """A rule that tests one candidate after the other.

    Attributes:
        toss: The function that returns the coins of a step.
        residual: The function ``(target_BV, draft_BV, scale_B, k_B) -> law_BV`` that returns the weights of the last
            token after k rejected candidates; with ``k = 0``, where none was tested, the target's own weights.
    """

    toss: Callable[[Step], Coins]
    residual: Residual

    def select(self, drawn: Round, chance: Chance) -> Selection:
        """Follow the accepted tokens down the tree, then draw one more token."""
        node_B, active_BK = start(drawn)
        running_B, parent_B = active_BK[:, 0], node_B
        scale_B, k_B = torch.ones_like(node_B, dtype=torch.float64), node_B
        for depth in range(1, drawn.tree.depth + 1):
            step = step_at(drawn, depth, node_B, active_BK)
            coins = self.toss(step)
            # The residual of a row is that of the last step in which the row still ran.
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
    """Return which active candidates have the same token as the accepted one; [B, K]."""
    count = step.tokens_BK.shape[1]
    token_B1 = step.tokens_BK.gather(1, chosen_B.clamp(max=count - 1)[:, None])
    return step.active_BK & (step.tokens_BK == token_B1) & (chosen_B < count)[:, None]


def columns(some_BK: torch.Tensor) -> list[torch.Tensor]:
    """Return the columns of a table, [B, 1] for every candidate."""
    return [some_BK[:, index : index + 1] for index in range(some_BK.shape[1])]


def ratio(wanted_BK: torch.Tensor, offered_BK: torch.Tensor) -> torch.Tensor:
    """Return the acceptance probability ``min(1, wanted / offered)``; 0 for a token that is not offered."""
    return torch.where(offered_BK > 0, wanted_BK / offered_BK, 0).clamp(max=1)
