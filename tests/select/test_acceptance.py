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

from spectr_select import acceptance

# The least share of the optimum that K-SEQ accepts, for k drafts; laws over two tokens attain it.
WORST_SHARE = {1: 1.0, 2: 8 / 9, 3: 0.865030, 4: 0.854381, 8: 0.839709}


def optimum_by_transport(target_V: torch.Tensor, tuples: dict[tuple[int, ...], float]) -> float:
    """Solve the linear program of optimal transport with membership cost (SpecTr, arXiv 2310.15141, section 4)."""
    vocabulary = len(target_V)
    pairs = [(drafts, token) for drafts in tuples for token in range(vocabulary)]
    gain = [-float(token in drafts) for drafts, token in pairs]
    rows = [[float(pair[0] == drafts) for pair in pairs] for drafts in tuples]
    rows += [[float(pair[1] == token) for pair in pairs] for token in range(vocabulary)]
    solution = linprog(gain, A_eq=np.array(rows), b_eq=np.array([*tuples.values(), *target_V.tolist()]), method="highs")
    return -float(solution.fun)


@pytest.mark.parametrize(
    ("rule", "k"),
    [("single", 1), ("rrsw", 4), *((rule, k) for rule in ("kseq", "rrs", "rrsw", "greedy") for k in (1, 2, 3))],
)
def test_closed_form_is_what_the_rule_does(rule, k, kind, laws, enumerated) -> None:
    target_BV, draft_BV = laws(kind, 3, 4)
    closed_B = acceptance(rule, target_BV, draft_BV, k)
    done_B = enumerated(rule, target_BV, draft_BV, k)
    if rule == "kseq" and k > 1:  # a round searches for the division factor less thoroughly than the closed form
        assert float((done_B - closed_B).abs().max()) < 2e-2
    else:
        torch.testing.assert_close(done_B, closed_B, rtol=0, atol=1e-12)


def iid(draft_V: torch.Tensor, drafts: tuple[int, ...]) -> float:
    return math.prod(float(draft_V[token]) for token in drafts)


def without_replacement(draft_V: torch.Tensor, drafts: tuple[int, ...]) -> float:
    chance, left = 1.0, 1.0
    for token in drafts:
        chance, left = chance * float(draft_V[token]) / left, left - float(draft_V[token])
    return chance


@pytest.mark.parametrize("k", [1, 2, 3])
def test_optimum_is_the_transport_s(k, kind, laws) -> None:
    target_BV, draft_BV = laws(kind, 2, 3)
    for target_V, draft_V in zip(target_BV, draft_BV, strict=True):
        target_V, draft_V = target_V / target_V.sum(), draft_V / draft_V.sum()
        tuples = {drafts: iid(draft_V, drafts) for drafts in itertools.product(range(3), repeat=k)}
        optimum = float(acceptance("optimal", target_V[None], draft_V[None], k))
        assert optimum == pytest.approx(optimum_by_transport(target_V, tuples), abs=1e-9)


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("seed", range(4))
def test_optimum_without_replacement_is_the_transport_s(k, seed, laws) -> None:
    (target_V,), (draft_V,) = laws("random", 1, 4, seed=seed)
    tuples = {drafts: without_replacement(draft_V, drafts) for drafts in itertools.permutations(range(4), k)}
    optimum = float(acceptance("optimal-swor", target_V[None], draft_V[None], k))
    assert optimum == pytest.approx(optimum_by_transport(target_V, tuples), abs=1e-9)


def test_greedy_is_optimal_for_its_drafting(laws) -> None:
    (target_V,), (draft_V,) = laws("random", 1, 4)
    top = tuple(draft_V.topk(2).indices.tolist())
    rest = {token: float(draft_V[token]) for token in range(4) if token not in top}
    tuples = {(*top, token): weight / sum(rest.values()) for token, weight in rest.items()}
    optimum = optimum_by_transport(target_V, tuples)
    assert float(acceptance("greedy", target_V[None], draft_V[None], 3)) == pytest.approx(optimum, abs=1e-9)


def test_one_race_has_a_closed_form_between_its_bounds(laws) -> None:
    target_BV, draft_BV = laws("random", 20, 6)
    ratio_BJV = torch.maximum(draft_BV[:, None] / draft_BV[:, :, None], target_BV[:, None] / target_BV[:, :, None])
    race_B = acceptance("race", target_BV, draft_BV, 1)
    torch.testing.assert_close(race_B, (1 / ratio_BJV.sum(2)).sum(1), rtol=0, atol=1e-12)
    strays_B = (target_BV - draft_BV).abs().sum(1) / 2
    assert bool((race_B >= (1 - strays_B) / (1 + strays_B)).all())
    assert bool((race_B <= 1 - strays_B).all())


def test_one_list_is_one_race(laws) -> None:
    pair = laws("random", 20, 6)
    torch.testing.assert_close(acceptance("gls", *pair, 1), acceptance("race", *pair, 1), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_lists_of_races_with_common_arrivals(k: int) -> None:
    """Check three tokens by hand: the draft offers a and b, and the target wants b and c.

    b is emitted if twice its first time is below that of c, and no draft is b if a comes before b in every race.
    """
    target_BV, draft_BV = torch.tensor([[0.0, 1, 2]]), torch.tensor([[1.0, 1, 0]])
    # Expectations of exp(-m), with m the earliest time of b in k races, times the chance that b comes before c.
    powers = [k / (3 * k + power) for power in range(k + 1)]
    # Powers of exp(-m) in (1 - exp(-m)) (1 - exp(-m) / 2)^(k - 1).
    none = np.polynomial.polynomial.polymul([1, -1], np.polynomial.polynomial.polypow([1, -0.5], k - 1))
    expected = 1 / 3 - sum(one * power for one, power in zip(none, powers, strict=True))
    assert float(acceptance("gls", target_BV, draft_BV, k)) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [2, 3, 8])
def test_lists_of_races_between_their_bounds_and_as_simulated(k: int, laws) -> None:
    (target_BV, draft_BV), generator = laws("random", 5, 6), torch.Generator().manual_seed(k)
    alpha_B = acceptance("gls", target_BV, draft_BV, k)
    ratio_BJV = torch.maximum(draft_BV[:, None] / draft_BV[:, :, None], target_BV[:, None] / target_BV[:, :, None])
    assert bool((alpha_B >= (k / (ratio_BJV.sum(2) + (k - 1) / target_BV)).sum(1) - 1e-12).all())
    assert bool((alpha_B <= acceptance("optimal", target_BV, draft_BV, k) + 1e-12).all())
    races = 20_000
    for target_V, draft_V, alpha in zip(target_BV, draft_BV, alpha_B.tolist(), strict=True):
        time_SKV = torch.empty((races, k, 6), dtype=torch.float64).exponential_(generator=generator)
        emitted_S1 = (time_SKV.amin(1) / target_V).argmin(1, keepdim=True)
        share = float(((time_SKV / draft_V).argmin(2) == emitted_S1).any(1).double().mean())
        assert share == pytest.approx(alpha, abs=5 * (alpha * (1 - alpha) / races) ** 0.5)


@pytest.mark.parametrize("rule", ["race", "gls", "rrsw", "optimal"])
@pytest.mark.parametrize("k", [1, 2])
def test_edges_of_the_closed_forms(rule: str, k: int, laws) -> None:
    equal, disjoint = laws("equal", 5, 4), laws("disjoint", 5, 4)
    torch.testing.assert_close(acceptance(rule, *equal, k), torch.ones(5).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(acceptance(rule, *disjoint, k), torch.zeros(5).double(), rtol=0, atol=1e-12)


weights = st.lists(st.sampled_from([0.0, 1e-6, 0.1, 0.3, 1.0, 1.0, 2.0, 5.0, 40.0]), min_size=4, max_size=4).filter(any)


def many_laws(seed: int, rows: int, vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Generate laws from flat to peaked, close and distant; some have zeros, ties or disjoint supports."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    logits = torch.randn((2, rows, vocabulary), generator=generator, dtype=torch.float64) * 6 * uniform(1, rows, 1)
    logits[1] = torch.lerp(logits[0], logits[1], 1.5 * uniform(rows, 1))
    laws = logits.softmax(2) * (uniform(2, rows, vocabulary) > 0.3 * (uniform(1, rows, 1) < 0.5))
    laws = torch.where(uniform(rows, 1) < 0.2, (4 * laws).ceil(), laws)
    laws[:, :, 0] += 1e-9 * (laws.sum(2) == 0)
    target_BV, draft_BV = laws / laws.sum(2, keepdim=True)
    return target_BV, draft_BV


@settings(max_examples=100, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 2**31), vocabulary=st.integers(2, 9), k=st.sampled_from(sorted(WORST_SHARE)))
def test_kseq_is_near_the_optimum(seed: int, vocabulary: int, k: int) -> None:
    """Check a hundred examples of 40 pairs of laws."""
    laws = many_laws(seed, 40, vocabulary)
    kseq_B, optimum_B = acceptance("kseq", *laws, k), acceptance("optimal", *laws, k)
    assert float((kseq_B - WORST_SHARE[k] * optimum_B).min()) >= -1e-6
    assert float((kseq_B - optimum_B).max()) <= 1e-12
    assert float((acceptance("rrs", *laws, k) - kseq_B).max()) <= 1e-9


@settings(max_examples=40, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 2**31), vocabulary=st.integers(2, 6), k=st.integers(1, 4))
def test_draws_without_replacement_never_lower_the_optimum(seed: int, vocabulary: int, k: int) -> None:
    """Check forty examples of 50 pairs of laws."""
    laws = many_laws(seed, 50, vocabulary)
    assert float((acceptance("optimal-swor", *laws, k) - acceptance("optimal", *laws, k)).min()) >= -1e-9


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
    with pytest.raises(ValueError, match="'block' accepts several tokens together"):
        acceptance("block", law_BV, law_BV, 1)
    with pytest.raises(ValueError, match="k = 2 drafts for rule 'single', which takes 1"):
        acceptance("single", law_BV, law_BV, 2)
