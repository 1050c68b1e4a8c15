"""Rules that look right and are biased: the exactness test must find each bias, of the size that theory predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from spectr_select import RULES, Rule, output_law
from spectr_select.chance import Chance, Role
from spectr_select.coins import CoinRule, Coins, columns, ratio
from spectr_select.division import division_factor, some_of
from spectr_select.drawing import draw_iid
from spectr_select.law import excess, normalised, without
from spectr_select.recursion import Step, TokenRule, bonus_by_pick
from spectr_select.rule import Level
from spectr_select.rules import kseq, rrs, rrsw

DRAFT = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
TARGET = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)

Toss = Callable[[Step], Coins]


def bias_of(rule: Rule, monkeypatch, distance) -> float:
    monkeypatch.setitem(RULES, rule.name, rule)
    return distance(output_law(rule.name, TARGET, DRAFT, 2), TARGET)


def broken(toss: Toss, residual=rrs.residual) -> Rule:
    return Rule("broken", "iid", draw_iid, CoinRule(toss, residual).select)


def kseq_with(change: Callable[[torch.Tensor], torch.Tensor]) -> Rule:
    def toss(step: Step) -> Coins:
        rho_B = change(division_factor(step.target_BV, step.draft_BV, step.active_BK.sum(1).clamp(min=1)))
        target_BK, draft_BK = (law_BV.gather(1, step.tokens_BK) for law_BV in (step.target_BV, step.draft_BV))
        return Coins(ratio(target_BK, rho_B[:, None] * draft_BK) * step.active_BK, rho_B)

    def residual(target_BV, draft_BV, scale_B, k_B) -> torch.Tensor:
        share_BV = torch.minimum(draft_BV, target_BV / scale_B[:, None])
        return (target_BV - share_BV * some_of(share_BV.sum(1), k_B)[:, None]).clamp(min=0)

    return broken(toss, residual)


def without_repeats(step: Step) -> Coins:
    equal_BKK = step.tokens_BK[:, :, None] == step.tokens_BK[:, None, :]
    return kseq.toss(replace(step, active_BK=step.active_BK & ~equal_BKK.tril(-1).any(2)))


def fewer_for_repeats(target_BV, draft_BV, scale_B, k_B) -> torch.Tensor:
    # The scale shows whether several candidates were tested, because rho is 1 for a single candidate.
    return kseq.residual(target_BV, draft_BV, scale_B, torch.where(scale_B > 1.01, k_B, k_B.clamp(max=1)))


def rrsw_testing_repeats(step: Step, chance: Chance) -> torch.Tensor:
    left_BV, draft_BV, accepts = step.target_BV, step.draft_BV, []
    for token_B1, active_B1 in zip(columns(step.tokens_BK), columns(step.active_BK), strict=True):
        accepts.append(
            (left_BV.gather(1, token_B1) / draft_BV.gather(1, token_B1)).nan_to_num(0).clamp(max=1) * active_B1
        )
        left_BV = torch.where(active_B1, normalised(excess(left_BV, draft_BV)), left_BV)
        draft_BV = torch.where(active_B1, without(draft_BV, token_B1), draft_BV)
    chosen_B = chance.first(step.first, torch.cat(accepts, 1))
    drafted_B = step.tokens_BK.gather(1, chosen_B.clamp(max=1)[:, None])[:, 0]
    return torch.where(chosen_B == 2, chance.pick(Role.EMIT, 0, left_BV), drafted_B)


def drafted_or_excess(step: Step, chance: Chance) -> torch.Tensor:
    target_BV = normalised(step.target_BV)
    wish_B = chance.pick(Role.EMIT, 0, target_BV)
    drafted_B = (step.tokens_BK == wish_B[:, None]).any(1)
    return torch.where(drafted_B, wish_B, chance.pick(Role.EMIT, 1, excess(target_BV, normalised(step.draft_BV))))


def emitting(emit: Callable[[Step, Chance], torch.Tensor]) -> Rule:
    return Rule("broken", "iid", draw_iid, TokenRule(emit, bonus_by_pick).select)


def draw_flatter(level: Level, chance: Chance) -> torch.Tensor:
    return chance.picks(level.families, level.draft_BMV**0.5)


def test_the_same_recipe_with_the_true_factor_is_exact(monkeypatch, distance) -> None:
    assert bias_of(kseq_with(lambda rho: rho), monkeypatch, distance) <= 1e-12


def test_rrsw_that_skips_repeats_is_exact_on_independent_drafts(monkeypatch, distance) -> None:
    assert bias_of(broken(rrsw.toss), monkeypatch, distance) <= 1e-12


def test_a_larger_division_factor_is_exact_too(monkeypatch, distance) -> None:
    assert bias_of(kseq_with(lambda rho: rho + 0.05), monkeypatch, distance) <= 1e-12


@pytest.mark.parametrize(
    ("rule", "bias"),
    [
        pytest.param(kseq_with(torch.ones_like), 0.120, id="kseq with rho 1"),
        pytest.param(kseq_with(lambda rho: rho - 0.05), 0.0089, id="kseq with rho too small"),
        pytest.param(broken(without_repeats, fewer_for_repeats), 0.0375, id="kseq on drafts without repeats"),
        pytest.param(emitting(rrsw_testing_repeats), 0.0375, id="rrsw that tests repeats"),
        pytest.param(emitting(drafted_or_excess), 0.1635, id="the target's wish if drafted, else the excess"),
    ],
)
def test_bias_is_found(rule, bias, monkeypatch, distance) -> None:
    assert bias_of(rule, monkeypatch, distance) == pytest.approx(bias, abs=5e-4)


def test_drafts_of_another_law_are_found(monkeypatch, distance) -> None:
    assert bias_of(Rule("broken", "iid", draw_flatter, RULES["kseq"].select), monkeypatch, distance) > 0.01


def length_after_the_draft(step: Step, chance: Chance) -> torch.Tensor:
    """Speculative sampling that gives up a draft of token 1 and draws from the target without it."""
    token_B1 = step.tokens_BK[:, :1]
    accept_B1 = ratio(step.target_BV.gather(1, token_B1), step.draft_BV.gather(1, token_B1))
    tested_B = chance.first(step.first, accept_B1)
    corrected_B = chance.pick(Role.EMIT, 0, excess(step.target_BV, step.draft_BV))
    tested_B = torch.where(tested_B == 0, token_B1[:, 0], corrected_B)
    return torch.where(token_B1[:, 0] == 1, chance.pick(Role.EMIT, 1, step.target_BV), tested_B)


def test_a_length_that_is_chosen_after_the_draft_was_seen_is_biased(monkeypatch) -> None:
    """The length of a round must be chosen before its drafts are seen (DSpark, arXiv 2607.05147, appendix A)."""
    target_BV, draft_BV = (torch.tensor([law], dtype=torch.float64) for law in ([0.7, 0.3], [0.5, 0.5]))
    monkeypatch.setitem(RULES, "broken", emitting(length_after_the_draft))
    law_BV = output_law("broken", target_BV, draft_BV, 1)
    torch.testing.assert_close(law_BV.flatten(), torch.tensor([0.85, 0.15], dtype=torch.float64))
