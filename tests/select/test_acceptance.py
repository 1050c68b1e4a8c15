"""Acceptance probabilities: closed forms against enumeration, linear programming and the theory's bounds."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from spectr_select import RULES, DraftTree, acceptance
from spectr_select.branches import every_branch
from spectr_select.round import draw_level
from spectr_select.rule import Round

# The least that K-SEQ accepts of the optimum: two tokens attain it.
WORST_SHARE = {1: 1.0, 2: 8 / 9, 3: 0.865030, 4: 0.854381, 8: 0.839709}


def enumerated_acceptance(rule: str, target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    """Probability that a rule accepts a draft, by every draft and coin."""
    tree, found, rows = DraftTree.paths(k, 1), RULES[rule], len(target_BV)
    drawn_RK, drawing = every_branch(rows, lambda c: draw_level(found, tree, 1, draft_BV[c.row_R][:, None], c))
    tokens_RN = torch.cat([torch.zeros_like(drawn_RK[:, :1]), drawn_RK], 1)
    target_RNV = target_BV[drawing.row_R][:, None].expand(-1, tree.size, -1)
    draft_RPV = draft_BV[drawing.row_R][:, None]
    chosen, choosing = every_branch(
        len(tokens_RN),
        lambda c: found.select(Round(tree, tokens_RN[c.row_R], target_RNV[c.row_R], draft_RPV[c.row_R]), c),
    )
    weight_R = drawing.weight_R[choosing.row_R] * choosing.weight_R * (chosen.count_B > 0)
    return torch.zeros(rows, dtype=torch.float64).index_add(0, drawing.row_R[choosing.row_R], weight_R)


def optimum_by_transport(target_V: torch.Tensor, tuples: dict[tuple[int, ...], float]) -> float:
    """The linear program of optimal transport with membership cost (SpecTr, arXiv 2310.15141, section 4)."""
    vocabulary = len(target_V)
    pairs = [(drafts, token) for drafts in tuples for token in range(vocabulary)]
    gain = [-float(token in drafts) for drafts, token in pairs]
    rows = [[float(pair[0] == drafts) for pair in pairs] for drafts in tuples]
    rows += [[float(pair[1] == token) for pair in pairs] for token in range(vocabulary)]
    solution = linprog(gain, A_eq=np.array(rows), b_eq=np.array([*tuples.values(), *target_V.tolist()]), method="highs")
    return -float(solution.fun)


@pytest.mark.parametrize(("rule", "k"), [("single", 1), ("kseq", 1), ("kseq", 2), ("kseq", 3)])
def test_closed_form_is_what_the_rule_does(rule, k, kind, laws) -> None:
    target_BV, draft_BV = laws(kind, 3, 4)
    closed_B = acceptance(rule, target_BV, draft_BV, k)
    done_B = enumerated_acceptance(rule, target_BV, draft_BV, k)
    # A round searches the division factor less long than the closed form does.
    torch.testing.assert_close(done_B, closed_B, rtol=0, atol=1e-5 if rule == "kseq" and k > 1 else 1e-12)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_optimum_is_the_transport_s(k, kind, laws) -> None:
    target_BV, draft_BV = laws(kind, 2, 3)
    for target_V, draft_V in zip(target_BV, draft_BV, strict=True):
        target_V, draft_V = target_V / target_V.sum(), draft_V / draft_V.sum()
        tuples = {
            drafts: math.prod(float(draft_V[token]) for token in drafts)
            for drafts in itertools.product(range(3), repeat=k)
        }
        optimum = float(acceptance("optimal", target_V[None], draft_V[None], k))
        assert optimum == pytest.approx(optimum_by_transport(target_V, tuples), abs=1e-9)


weights = st.lists(st.sampled_from([0.0, 1e-6, 0.1, 0.3, 1.0, 1.0, 2.0, 5.0, 40.0]), min_size=4, max_size=4).filter(any)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(target=weights, draft=weights, k=st.sampled_from(sorted(WORST_SHARE)))
def test_kseq_is_near_the_optimum(target: list[float], draft: list[float], k: int) -> None:
    laws = torch.tensor([target], dtype=torch.float64), torch.tensor([draft], dtype=torch.float64)
    kseq, optimum = float(acceptance("kseq", *laws, k)), float(acceptance("optimal", *laws, k))
    assert WORST_SHARE[k] * optimum - 1e-6 <= kseq <= optimum + 1e-12


def test_two_tokens_attain_the_worst_share() -> None:
    laws = torch.tensor([[4 / 9, 5 / 9]], dtype=torch.float64), torch.tensor([[2 / 3, 1 / 3]], dtype=torch.float64)
    assert float(acceptance("kseq", *laws, 2)) == pytest.approx(8 / 9, abs=1e-12)
    assert float(acceptance("optimal", *laws, 2)) == pytest.approx(1, abs=1e-12)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(target=weights, draft=weights)
def test_one_draft_leaves_no_choice_of_rule(target: list[float], draft: list[float]) -> None:
    target_BV, draft_BV = torch.tensor([target], dtype=torch.float64), torch.tensor([draft], dtype=torch.float64)
    overlap = float(torch.minimum(target_BV / target_BV.sum(), draft_BV / draft_BV.sum()).sum())
    for rule in ("single", "kseq", "optimal"):
        assert float(acceptance(rule, target_BV, draft_BV, 1)) == pytest.approx(overlap, abs=1e-12)


@settings(max_examples=60, deadline=None, database=None, derandomize=True)
@given(target=weights, draft=weights)
def test_more_drafts_accept_no_less(target: list[float], draft: list[float]) -> None:
    laws = torch.tensor([target], dtype=torch.float64), torch.tensor([draft], dtype=torch.float64)
    for rule in ("kseq", "optimal"):
        alphas = [float(acceptance(rule, *laws, k)) for k in range(1, 7)]
        assert all(later >= earlier - 1e-6 for earlier, later in itertools.pairwise(alphas))


def test_unknown_names_and_counts_are_refused() -> None:
    law_BV = torch.ones((1, 2))
    with pytest.raises(ValueError, match="'best' is not known"):
        acceptance("best", law_BV, law_BV, 1)
    with pytest.raises(ValueError, match="k = 0 drafts for rule 'kseq', which takes 1 or more"):
        acceptance("kseq", law_BV, law_BV, 0)
    with pytest.raises(ValueError, match="k = 2 drafts for rule 'single', which takes 1"):
        acceptance("single", law_BV, law_BV, 2)
