"""Bounds on the probability that recursive rejection sampling without replacement rejects all its drafts.

That probability is the mean of ``F(c_k)`` over sequences of rejected tokens (see ``rejections``), of which there may be
too many to sum up. Here tokens of about the same d form a group. Sequences form a case if they took as many tokens of
every group, and c is now in the same cell of a grid. The value of a sequence is the mean of ``F(c_k)`` over what may
follow it; a case has an upper and a lower bound on the values of its sequences.

The next c is ``c + F(c) / m``. It falls with m, which is between the least and the most that such counts leave. Let
D(c) be the weight of d on the tokens with ``t > c d``, by which F falls. None of these was rejected, so m is at least
D(c), and the next c is ``c + F(c) / max(m, D(c))``. This grows with c: where D(c) is the larger, it is where the
tangent of the convex F at c meets zero. Hence the next c has bounds too, and after the last draft so has the value,
for F falls. Before, an upper bound is the largest of the cells from that of the least next c on, a lower bound the
smallest of the cells up to that of the greatest.

The next rejected token is of group g with probability ``(H_g(c') - H_g(c) - (c' - c) d(S_g)) / F(c')``, where c' is the
next c, ``H_g(c)`` the sum of ``(c d - t)+`` over the group, and S_g its rejected tokens. Each of these has a lower
bound. What these bounds leave of 1 goes to the group with the largest value for the one bound, and to that with the
smallest for the other.
"""

# C cells, E edges of cells, G groups, H tokens that can be rejected, N cases, V vocabulary.
from __future__ import annotations

from dataclasses import dataclass

import torch

from spectr_select.exact.groups import Groups, sizes_of, tails
from spectr_select.exact.rejections import LARGEST, Excess

_CELLS = 256
_AT_ONCE = 1 << 17
_ROUNDING = 1e-12  # above the relative error of a sum over the vocabulary


@dataclass(frozen=True, slots=True)
class Level:
    """What can hold for c after some number of rejections.

    Attributes:
        edge_E: The edges of the cells of c.
        excess_E: F at the edges.
        slope_E: D at the edges.
        short_GE: H at the edges.
    """

    edge_E: torch.Tensor
    excess_E: torch.Tensor
    slope_E: torch.Tensor
    short_GE: torch.Tensor

    def cells(self, scale_NC: torch.Tensor) -> torch.Tensor:
        """Return the cells that these c are in."""
        return (torch.searchsorted(self.edge_E, scale_NC, right=True) - 1).clamp(0, len(self.edge_E) - 2)


@dataclass(frozen=True, slots=True)
class Merged:
    """The cases of a pair of laws.

    Attributes:
        excess: The function F of the laws.
        cold: The draft's weight on tokens that cannot be rejected.
        groups: The groups of the others.
        codes: The codes of the cases, by the number of rejections.
        levels: What can hold for c, by the number of rejections; c is 1 after the first.
    """

    excess: Excess
    cold: torch.Tensor
    groups: Groups
    codes: list[torch.Tensor]
    levels: dict[int, Level]

    def chance(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the least and the most that the probability of rejecting all drafts can be, scalars."""
        last = len(self.codes) - 1
        low_NC, high_NC = map(self.excess.at, reversed(self.scales(last, self.groups.counts(self.codes[last]))))
        for rejections in range(last - 1, 0, -1):
            values = [
                self.values(rejections, code_N, low_NC.cummin(1).values, high_NC.flip(1).cummax(1).values.flip(1))
                for code_N in torch.split(self.codes[rejections], _AT_ONCE // _CELLS)
            ]
            low_NC, high_NC = (torch.cat(some) for some in zip(*values, strict=True))
        short_G = self.levels[1].short_GE[:, 0]
        share_G = short_G / short_G.sum().clamp(min=torch.finfo(torch.float64).tiny)
        row_G = torch.searchsorted(self.codes[1], self.groups.stride_G)
        return (share_G * low_NC[row_G, 0]).sum(), (share_G * high_NC[row_G, 0]).sum()

    def scales(self, rejections: int, count_NG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the least and the greatest next c of the cases, for every cell; [N, C]."""
        level = self.levels[rejections]
        edge_E, excess_E, slope_E = level.edge_E, level.excess_E, level.slope_E
        least_N1, most_N1 = (
            self.cold + left_GI.gather(1, count_NG.T).sum(0)[:, None]
            for left_GI in (self.groups.least_GI, self.groups.most_GI)
        )
        most_left_NC, least_left_NC = most_N1.maximum(slope_E[:-1]), least_N1.maximum(slope_E[1:])
        least_NC, most_NC = edge_E[:-1] + excess_E[:-1] / most_left_NC, edge_E[1:] + excess_E[1:] / least_left_NC
        return least_NC.clamp(max=LARGEST), most_NC.clamp(max=LARGEST)

    def values(
        self, rejections: int, code_N: torch.Tensor, low_NC: torch.Tensor, high_NC: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the bounds of cases from those after one more rejection; [N, C]."""
        level, after, count_NG = self.levels[rejections], self.levels[rejections + 1], self.groups.counts(code_N)
        least_NC, most_NC = self.scales(rejections, count_NG)
        first_NC, last_NC = after.cells(least_NC), after.cells(most_NC)
        step_NC = most_NC - level.edge_E[:-1]
        excess_NC = after.excess_E[first_NC].clamp(min=torch.finfo(torch.float64).tiny)
        sure_NC, low_sum_NC, high_sum_NC = (torch.zeros_like(step_NC) for _ in range(3))
        lowest_NC, highest_NC = torch.full_like(step_NC, torch.inf), torch.zeros_like(step_NC)
        for group, (short_E, after_E) in enumerate(zip(level.short_GE, after.short_GE, strict=True)):
            count_N, more_N = count_NG[:, group], code_N + self.groups.stride_G[group]
            some_N1 = (count_N < self.groups.limit_G[group])[:, None]
            gone_N1 = self.groups.gone_GI[group][count_N][:, None]
            after_NC = (1 - _ROUNDING) * after_E[first_NC]
            share_NC = (after_NC - short_E[1:] - step_NC * gone_N1).clamp(min=0) / excess_NC * some_N1
            row_N = torch.searchsorted(self.codes[rejections + 1], more_N * some_N1[:, 0])
            one_low_NC, one_high_NC = low_NC[row_N].gather(1, last_NC), high_NC[row_N].gather(1, first_NC)
            sure_NC += share_NC
            low_sum_NC += share_NC * one_low_NC
            high_sum_NC += share_NC * one_high_NC
            lowest_NC = torch.where(some_N1, lowest_NC.minimum(one_low_NC), lowest_NC)
            highest_NC = torch.where(some_N1, highest_NC.maximum(one_high_NC), highest_NC)
        spare_NC, whole_NC = (1 - sure_NC).clamp(min=0), sure_NC.clamp(min=1)
        # A case that has no token left to reject does not happen.
        return (
            (low_sum_NC + spare_NC * lowest_NC.nan_to_num(posinf=0)) / whole_NC,
            (high_sum_NC + spare_NC * highest_NC) / whole_NC,
        )


def bounds(target_V: torch.Tensor, draft_V: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the least and the most that the probability of rejecting all k drafts can be.

    Args:
        target_V: The target's law t, float64 with sum 1.
        draft_V: The draft's law d.
        k: The number of drafts; no more of them are tested than the draft offers tokens.

    Returns:
        Two scalars, float64.
    """
    draft_V, order_V = draft_V.sort(descending=True)
    target_V = target_V[order_V]
    excess, rejections = Excess.of(target_V, draft_V), min(k, int((draft_V > 0).sum())) - 1
    once = excess.at(torch.ones_like(draft_V[0]))
    if rejections == 0 or not float(once) > 0:  # NaN where one of the two is no law
        return once, once
    spans = reach(excess, draft_V, rejections)
    hot_V = target_V < spans[-1][1] * draft_V
    if int(hot_V.sum()) < rejections:
        return torch.zeros_like(once), torch.zeros_like(once)
    target_H, draft_H = target_V[hot_V], draft_V[hot_V]
    sizes = sizes_of(spans[-1][1] * draft_H - target_H, draft_H, rejections)
    levels = {}
    for count, (least, most) in enumerate(spans, start=1):
        edge_E = least * (most / least) ** torch.linspace(0, 1, 1 + (_CELLS if count > 1 else 1)).to(draft_V)
        short_HE = (edge_E * draft_H[:, None] - target_H[:, None]).clamp(min=0)
        short_GE = torch.stack([part_HE.sum(0) for part_HE in torch.split(short_HE, sizes)])
        levels[count] = Level(edge_E, excess.at(edge_E), excess.slope(edge_E), short_GE)
    groups = Groups.of(torch.split(draft_H, sizes), rejections)
    return Merged(excess, draft_V[~hot_V].flip(0).sum(), groups, groups.codes(rejections), levels).chance()


def reach(excess: Excess, draft_V: torch.Tensor, rejections: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Return the least and the greatest c after 1, 2, ... rejections: m is at most 1, and least without the first d."""
    least = most = torch.ones_like(draft_V[0])
    spans = [(least, most)]
    for left in tails(draft_V)[1:rejections]:
        least, most = excess.after(least, least.new_ones(())), excess.after(most, left.maximum(excess.slope(most)))
        spans.append((least, most))
    return spans
