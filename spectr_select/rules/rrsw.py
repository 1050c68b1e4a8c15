"""Recursive rejection sampling without replacement (RSD, arXiv 2402.14160; Sequoia, arXiv 2402.12374).

The rule is ``rrs`` with distinct siblings: a rejected token also leaves the draft's law, which is normalised again. The
residual has no weight on a rejected token, so it keeps the form ``(t - c d)+``.
"""

# B rows, K candidates, V vocabulary.
from __future__ import annotations

import torch

from spectr_select.coins import CoinRule, Coins
from spectr_select.drawing import draw_distinct
from spectr_select.recursion import Step, first_of
from spectr_select.rule import Rule
from spectr_select.rules.rrs import reject_in_turn, residual


def toss(step: Step) -> Coins:
    """Return the coins of recursive rejection sampling without replacement."""
    draft_BV = step.draft_BV.double()
    return reject_in_turn(step, draft_BV, *on_offer(draft_BV, step.tokens_BK, step.active_BK))


def on_offer(
    draft_BV: torch.Tensor, tokens_BK: torch.Tensor, active_BK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return, for each candidate, the draft's weight that remains before it is drawn, and whether it is tested.

    Args:
        draft_BV: The draft's weights, float64.
        tokens_BK: The tokens of the siblings in the order in which they were drawn.
        active_BK: Which of them are candidates.

    Returns:
        The sum of the draft's weights without the candidates drawn before, float64 [B, K], and which candidates are
        tested, bool [B, K].
    """
    offered_BK = draft_BV.gather(1, tokens_BK)
    # A candidate that the remaining law does not offer is a repeat, or a filler where the law had too few tokens. It
    # was not drawn from that law, so testing it would bias the output.
    earlier_BKK = (tokens_BK[:, :, None] == tokens_BK[:, None, :]) & active_BK[:, None, :]
    tested_BK = active_BK & (offered_BK > 0) & ~earlier_BKK.tril(-1).any(2)
    # Summed from the last candidate backwards, because differences from the total lose precision where little is left.
    # A candidate that is not tested zeroes a tested one once more, so that its own weight stays in the sum.
    some_B1 = tokens_BK.gather(1, first_of(tested_BK)[:, None])
    rest_B1 = draft_BV.scatter(1, torch.where(tested_BK, tokens_BK, some_B1), 0).sum(1, keepdim=True)
    return rest_B1 + (offered_BK * tested_BK).flip(1).cumsum(1).flip(1), tested_BK


RRSW = Rule(name="rrsw", drawing="without-replacement", draw=draw_distinct, select=CoinRule(toss, residual).select)
