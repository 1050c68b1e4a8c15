"""Rules that look right and are biased: the exactness test must find them, by as much as theory says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from spectr_select import RULES, Rule, output_law
from spectr_select.chance import Chance
from spectr_select.division import division_factor, some_of
from spectr_select.drawing import draw_iid
from spectr_select.law import excess, normalised, without
from spectr_select.noise import Role
from spectr_select.plan import Plan, columns, ratio, token_rule
from spectr_select.recursion import Step, TokenRule, bonus_by_pick
from spectr_select.rule import Siblings
from spectr_select.rules.kseq import KSEQ, kseq_plan
from spectr_select.rules.rrsw import rrsw_plan

DRAFT = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
TARGET = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)

PlanOf = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], Plan]


def bias_of(rule: Rule, monkeypatch, distance) -> float:
    monkeypatch.setitem(RULES, rule.name, rule)
    return distance(output_law(rule.name, TARGET, DRAFT, 2), TARGET)


def broken(plan_of: PlanOf) -> Rule:
    return Rule("broken", "iid", draw_iid, token_rule(plan_of).select)


def kseq_with(change: Callable[[torch.Tensor], torch.Tensor]) -> PlanOf:
    def plan_of(target_BV, draft_BV, tokens_BK, active_BK) -> Plan:
        k_B = active_BK.sum(1).double()
        rho_B1 = change(division_factor(target_BV, draft_BV, k_B.clamp(min=1)))[:, None]
        share_BV = torch.minimum(draft_BV, target_BV / rho_B1)
        residual_BV = (target_BV - share_BV * some_of(share_BV.sum(1), k_B)[:, None]).clamp(min=0)
        accept_BK = ratio(share_BV.gather(1, tokens_BK), draft_BV.gather(1, tokens_BK)) * active_BK
        return Plan(accept_BK, residual_BV)

    return plan_of


def without_repeats(target_BV, draft_BV, tokens_BK, active_BK) -> Plan:
    equal_BKK = tokens_BK[:, :, None] == tokens_BK[:, None, :]
    repeated_BK = equal_BKK.tril(-1).any(2)
    return kseq_plan(target_BV, draft_BV, tokens_BK, active_BK & ~repeated_BK)


def rrsw_testing_repeats(target_BV, draft_BV, tokens_BK, active_BK) -> Plan:
    left_BV, accepts = target_BV, []
    for token_B1, active_B1 in zip(columns(tokens_BK), columns(active_BK), strict=True):
        accepts.append(
            (left_BV.gather(1, token_B1) / draft_BV.gather(1, token_B1)).nan_to_num(0).clamp(max=1) * active_B1
        )
        left_BV = torch.where(active_B1, normalised(excess(left_BV, draft_BV)), left_BV)
        draft_BV = torch.where(active_B1, without(draft_BV, token_B1), draft_BV)
    return Plan(torch.cat(accepts, 1), left_BV)


def drafted_or_excess(step: Step, chance: Chance) -> torch.Tensor:
    target_BV = normalised(step.target_BV)
    wish_B = chance.pick(Role.EMIT, 0, target_BV)
    drafted_B = (step.tokens_BK == wish_B[:, None]).any(1)
    return torch.where(drafted_B, wish_B, chance.pick(Role.EMIT, 1, excess(target_BV, normalised(step.draft_BV))))


def draw_flatter(siblings: Siblings, chance: Chance) -> torch.Tensor:
    return chance.picks(siblings.nodes[0], siblings.draft_BV**0.5, len(siblings.nodes))


def test_the_same_recipe_with_the_true_factor_is_exact(monkeypatch, distance) -> None:
    assert bias_of(broken(kseq_with(lambda rho: rho)), monkeypatch, distance) <= 1e-12


def test_rrsw_that_skips_repeats_is_exact_on_independent_drafts(monkeypatch, distance) -> None:
    assert bias_of(broken(rrsw_plan), monkeypatch, distance) <= 1e-12


def test_a_larger_division_factor_is_exact_too(monkeypatch, distance) -> None:
    assert bias_of(broken(kseq_with(lambda rho: rho + 0.05)), monkeypatch, distance) <= 1e-12


@pytest.mark.parametrize(
    ("rule", "bias"),
    [
        pytest.param(broken(kseq_with(torch.ones_like)), 0.120, id="kseq with rho 1"),
        pytest.param(broken(kseq_with(lambda rho: rho - 0.05)), 0.0089, id="kseq with rho too small"),
        pytest.param(broken(without_repeats), 0.0375, id="kseq on drafts without repeats"),
        pytest.param(broken(rrsw_testing_repeats), 0.0375, id="rrsw that tests repeats"),
        pytest.param(
            Rule("broken", "iid", draw_iid, TokenRule(drafted_or_excess, bonus_by_pick).select),
            0.1635,
            id="the target's wish if drafted, else the excess",
        ),
    ],
)
def test_bias_is_found(rule, bias, monkeypatch, distance) -> None:
    assert bias_of(rule, monkeypatch, distance) == pytest.approx(bias, abs=5e-4)


def test_drafts_of_another_law_are_found(monkeypatch, distance) -> None:
    assert bias_of(Rule("broken", "iid", draw_flatter, KSEQ.select), monkeypatch, distance) > 0.01
