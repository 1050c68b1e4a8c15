from __future__ import annotations

import bisect

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spectr_select import division_factor
from spectr_select.division import division_of, some_of


def law(*weights: float) -> torch.Tensor:
    return torch.tensor([weights], dtype=torch.float64) / sum(weights)


def accepted(target_BV: torch.Tensor, draft_BV: torch.Tensor, rho_B: torch.Tensor, k: int) -> torch.Tensor:
    """Return the acceptance with a division factor and by how much it exceeds a lossless rule's; [2, B]."""
    beta_B = torch.minimum(draft_BV, target_BV / rho_B[:, None]).sum(1)
    accepted_B = beta_B * some_of(beta_B, torch.full_like(rho_B, k))
    return torch.stack([accepted_B, accepted_B - rho_B * beta_B])


def by_sorting(target_BV: torch.Tensor, draft_BV: torch.Tensor, k: int) -> torch.Tensor:
    return torch.stack([_by_sorting(t, d, k) for t, d in zip(target_BV, draft_BV, strict=True)])


def _by_sorting(target_V: torch.Tensor, draft_V: torch.Tensor, k: int) -> torch.Tensor:
    """Return the root by bisection on the piece of ``beta = D + T / rho`` between two sorted ratios that holds it."""
    order_V = (target_V / draft_V).nan_to_num(torch.inf).argsort()
    ratio_V = (target_V / draft_V).nan_to_num(torch.inf)[order_V]
    nothing = torch.zeros(1, dtype=torch.float64)
    scaled = torch.cat([nothing, target_V[order_V].cumsum(0)])
    whole = torch.cat([draft_V[order_V].flip(0).cumsum(0).flip(0), nothing])
    k_1 = torch.tensor([float(k)], dtype=torch.float64)

    def is_above(rho: float) -> bool:
        piece = int(torch.searchsorted(ratio_V, rho))
        return bool(some_of((whole[piece] + scaled[piece] / rho).reshape(1), k_1) <= rho)

    edges = [1.0, *ratio_V[(ratio_V > 1) & (ratio_V < k)].tolist(), float(k)]
    place = max(1, bisect.bisect_left(edges, True, key=is_above))
    low, high = edges[place - 1], edges[min(place, len(edges) - 1)]
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (low, middle) if is_above(middle) else (middle, high)
    return torch.tensor(high, dtype=torch.float64)


@pytest.mark.parametrize("k", [1, 2, 3, 8, 64])
@pytest.mark.parametrize("vocabulary", [2, 5, 200])
def test_agrees_with_the_sorted_solution(k: int, vocabulary: int) -> None:
    generator = torch.Generator().manual_seed(vocabulary)
    logits = 2 * torch.randn((2, 12, vocabulary), generator=generator, dtype=torch.float64)
    target_BV, draft_BV = logits[0].softmax(1), (0.5 * logits[0] + logits[1]).softmax(1)
    rho_B, best_B = division_factor(target_BV, draft_BV, k), by_sorting(target_BV, draft_BV, k)
    accepted_B, surplus_B = accepted(target_BV, draft_BV, rho_B, k)
    torch.testing.assert_close(accepted_B, accepted(target_BV, draft_BV, best_B, k)[0], rtol=0, atol=1e-8)
    assert float(surplus_B.max()) <= 1e-13
    if k <= 3:  # with many drafts a range of factors accepts the same, up to rounding
        torch.testing.assert_close(rho_B, best_B, rtol=1e-6, atol=0)


weights = st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 0.1, 0.5, 1.0, 1.0, 3.0, 7.0, 1e4]), min_size=4, max_size=4)


@settings(max_examples=150, deadline=None, database=None, derandomize=True)
@given(target=weights.filter(any), draft=weights.filter(any), k=st.sampled_from([1, 2, 3, 8, 64]))
def test_never_below_the_root_and_close_to_the_best_acceptance(target: list[float], draft: list[float], k: int) -> None:
    target_BV, draft_BV = law(*target), law(*draft)
    rho_B = division_factor(target_BV, draft_BV, k)
    assert 1 <= float(rho_B) <= k
    best_B = by_sorting(target_BV, draft_BV, k)
    accepted_B, surplus_B = accepted(target_BV, draft_BV, rho_B, k)
    # Below the root more would be accepted than the target allows, which would bias the output.
    assert float(surplus_B) <= 1e-13
    assert float(accepted(target_BV, draft_BV, best_B, k)[0] - accepted_B) <= 1e-6


@pytest.mark.parametrize(("k", "most"), [(2, 0.0065), (8, 0.017), (64, 0.055)])
def test_what_decoding_gives_away(k: int, most: float) -> None:
    """Compare the factor without refinements with the smallest one, on a few tokens and on laws like a model's."""

    def lost(target_BV: torch.Tensor, draft_BV: torch.Tensor) -> torch.Tensor:
        k_B = torch.full((len(target_BV),), k, dtype=torch.float64)
        rough_B = division_of(target_BV, draft_BV, (target_BV.sum(1), draft_BV.sum(1)), k_B)
        best_B = division_factor(target_BV, draft_BV, k)
        return accepted(target_BV, draft_BV, best_B, k)[0] - accepted(target_BV, draft_BV, rough_B, k)[0]

    generator = torch.Generator().manual_seed(0)
    sharpness = 4 * torch.rand((2, 4000, 1), generator=generator, dtype=torch.float64)
    few = (sharpness * torch.randn((2, 4000, 2), generator=generator, dtype=torch.float64)).softmax(2)
    assert most / 2 < float(lost(*few).max()) <= most
    zipf_V = -1.1 * torch.arange(1, 2001, dtype=torch.float64).log()
    logits = torch.randn((2, 30, 2000), generator=generator, dtype=torch.float64)
    first = zipf_V + logits[0]
    assert -1e-9 < float(lost(first.softmax(1), (first + logits[1]).softmax(1)).mean()) < 5e-4


def test_edges() -> None:
    uniform, left, right = law(1, 1, 1, 1), law(1, 2, 0, 0), law(0, 0, 3, 1)
    assert float(division_factor(left, right, 5)) == 5, "disjoint laws"
    for same in (uniform, law(0, 1, 0, 0)):  # with five drafts, factors slightly above 1 accept the same up to rounding
        rho_B = division_factor(same, same, 5)
        assert 1 <= float(rho_B) < 1.01
        assert float(accepted(same, same, rho_B, 5)[0]) == pytest.approx(1, abs=1e-14)
    assert float(division_factor(uniform, left, 1)) == 1, "one draft"
    # Uniform draft over n, target uniform over n / r of them: rho* = r (1 - (1 - 1/r)^k).
    assert float(division_factor(law(1, 0, 0, 0), uniform, 3)) == pytest.approx(4 * (1 - 0.75**3), abs=1e-12)


def test_rows_have_numbers_of_drafts_of_their_own() -> None:
    target_BV, draft_BV = law(1, 2, 3, 4).expand(3, -1), law(4, 3, 2, 1).expand(3, -1)
    rho_B = division_factor(target_BV, draft_BV, torch.tensor([1, 2, 4]))
    for k, rho in zip((1, 2, 4), rho_B, strict=True):
        assert float(rho) == float(division_factor(target_BV[:1], draft_BV[:1], k))


def test_weights_need_not_be_normalised() -> None:
    rho_B = division_factor(torch.tensor([[1.0, 2, 3, 4]]), torch.tensor([[40.0, 30, 20, 10]]), 2)
    assert float(rho_B) == pytest.approx(1.5, abs=1e-12)


def test_a_large_vocabulary_takes_passes_not_a_sort() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((2, 128_000), generator=generator)
    target_BV, draft_BV = logits[:1].softmax(1), (logits[:1] + logits[1:]).softmax(1)
    rho_B = division_factor(target_BV, draft_BV, 8)
    target_BV, draft_BV = (law_BV.double() / law_BV.double().sum() for law_BV in (target_BV, draft_BV))
    torch.testing.assert_close(rho_B, by_sorting(target_BV, draft_BV, 8), rtol=1e-10, atol=0)


def test_ill_shaped_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one shape \[B, V\]; got torch.float64 \[1, 2\] and torch.float64 \[1, 3\]"):
        division_factor(law(1, 1), law(1, 1, 1), 2)
    with pytest.raises(ValueError, match="must be floats"):
        division_factor(torch.ones((1, 2), dtype=torch.int64), law(1, 1), 2)
    with pytest.raises(ValueError, match="k = 0 drafts"):
        division_factor(law(1, 1), law(1, 1), 0)
