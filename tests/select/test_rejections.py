"""Acceptance without replacement: the sum over rejected tokens, and its bounds where that has too many terms."""

from __future__ import annotations

import pytest
import torch

from spectr_select import acceptance, acceptance_bounds
from spectr_select.exact import acceptance as known
from spectr_select.exact import groups, rejection_bounds
from spectr_select.law import normalised


def zipf(vocabulary: int, sharpness: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a Zipf law and a disturbed copy of it, the draft's law sharpened."""
    noise_V = torch.randn(vocabulary, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    logit_V = -1.1 * torch.arange(1, vocabulary + 1, dtype=torch.float64).log()
    return logit_V.softmax(0)[None], (sharpness * (logit_V + noise_V)).softmax(0)[None]


def by_residuals(target_V: torch.Tensor, draft_V: torch.Tensor, k: int) -> float:
    """Return the acceptance by the rule's own words: after a rejection the residual is (r - d)+ and d loses a token."""
    if k == 0 or not float(draft_V.sum()):
        return 0.0
    draft_V = draft_V / draft_V.sum()
    left_V, total = (target_V - draft_V).clamp(min=0), float((target_V - draft_V).clamp(min=0).sum())
    accepted = float(torch.minimum(target_V, draft_V).sum())
    for token, chance in enumerate((draft_V - target_V).clamp(min=0).tolist()):
        if chance and total:
            rest_V = draft_V.scatter(0, torch.tensor(token), 0)
            accepted += chance * by_residuals(left_V / total, rest_V, k - 1)
    return accepted


@pytest.fixture(params=[(40, 12), (8, 100), (4000, 2)], ids=["few", "large groups", "large cells"])
def few_cases(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let bounds be computed where the sum is known, from so few cases or cells that they are apart."""
    monkeypatch.setattr(known, "MOST_SEQUENCES", 0)
    monkeypatch.setattr(groups, "_CASES", request.param[0])
    monkeypatch.setattr(rejection_bounds, "_CELLS", request.param[1])


@pytest.mark.parametrize("k", [3, 4, 5, 8])
def test_any_number_of_drafts_is_summed(k: int, kind: str, laws) -> None:
    target_BV, draft_BV = map(normalised, laws(kind, 2, 5))
    words = [by_residuals(*pair, k) for pair in zip(target_BV, draft_BV, strict=True)]
    assert acceptance("rrsw", target_BV, draft_BV, k).tolist() == pytest.approx(words, abs=1e-12)


def test_little_weight_is_left_precisely() -> None:
    """After its first token this draft offers two of 1e-20 and 3e-20: the better one comes first one time in four."""
    target_BV = torch.tensor([[0.5, 0.5, 0]], dtype=torch.float64)
    draft_BV = torch.tensor([[1, 1e-20, 3e-20]], dtype=torch.float64)
    assert float(acceptance("rrsw", target_BV, draft_BV, 2)) == pytest.approx(0.5 + 0.5 / 4, abs=1e-12)


@pytest.mark.usefixtures("few_cases")
@pytest.mark.parametrize("k", [2, 3, 4, 6])
def test_sum_is_between_the_bounds(k: int, kind: str, laws, monkeypatch) -> None:
    pair = laws(kind, 12, 7)
    lower_B, upper_B = acceptance_bounds("rrsw", *pair, k)
    monkeypatch.setattr(known, "MOST_SEQUENCES", 5040)
    alpha_B = acceptance("rrsw", *pair, k)
    assert float((lower_B - alpha_B).max()) <= 1e-12
    assert float((alpha_B - upper_B).max()) <= 1e-12
    if kind == "random" and k > 2:
        assert float((upper_B - lower_B).max()) > 1e-4


@pytest.mark.parametrize("k", [4, 8])
@pytest.mark.parametrize("sharpness", [1.0, 2.0])
@pytest.mark.parametrize("vocabulary", [200, 4096])
def test_bounds_are_close(vocabulary: int, sharpness: float, k: int, monkeypatch) -> None:
    monkeypatch.setattr(known, "MOST_SEQUENCES", 0)
    pair = zipf(vocabulary, sharpness)
    (lower,), (upper,) = acceptance_bounds("rrsw", *pair, k)
    assert 0 < float(upper - lower) < 0.01
    assert float(acceptance("rrs", *pair, k)) < float(lower)
    assert float(upper) < float(acceptance("optimal-swor", *pair, k))


@pytest.mark.usefixtures("few_cases")
@pytest.mark.parametrize(("both", "alpha"), [("equal", 1.0), ("disjoint", 0.0)])
def test_bounds_meet_where_nothing_is_open(both: str, alpha: float, laws) -> None:
    for bound_B in acceptance_bounds("rrsw", *laws(both, 3, 40), 6):
        torch.testing.assert_close(bound_B, torch.full((3,), alpha).double(), rtol=0, atol=1e-12)


def test_a_drafted_support_that_covers_the_target_is_accepted() -> None:
    target_BV, draft_BV = torch.zeros((2, 1, 500), dtype=torch.float64)
    target_BV[0, 3:8] = torch.tensor([5.0, 4, 3, 2, 1])
    draft_BV[0, 2:8] = torch.tensor([1.0, 2, 3, 4, 5, 6])
    for bound_B in acceptance_bounds("rrsw", target_BV, draft_BV, 6):
        assert float(bound_B) == pytest.approx(1, abs=1e-12)


def test_bounds_of_other_rules_are_their_acceptance(laws) -> None:
    pair = laws("random", 2, 4)
    for rule, k in (("kseq", 3), ("rrsw", 3)):
        for bound_B in acceptance_bounds(rule, *pair, k):
            torch.testing.assert_close(bound_B, acceptance(rule, *pair, k), rtol=0, atol=0)


def test_too_many_sequences_are_refused() -> None:
    pair = zipf(200)
    with pytest.raises(ValueError, match=r"4 rejected tokens, and of 200 tokens .* Use acceptance_bounds\."):
        acceptance("rrsw", *pair, 5)
    with pytest.raises(ValueError, match="k = 0 drafts for rule 'rrsw', which takes 1 or more"):
        acceptance_bounds("rrsw", *pair, 0)


@pytest.mark.parametrize("most", [0, 1 << 24], ids=["bounds", "sum"])
@pytest.mark.parametrize("weight", [0.0, torch.nan])
@pytest.mark.parametrize("side", ["target", "draft"])
def test_a_row_that_is_no_law_has_no_acceptance(side: str, weight: float, most: int, laws, monkeypatch) -> None:
    monkeypatch.setattr(known, "MOST_SEQUENCES", most)
    pair = laws("random", 2, 6)
    sound = acceptance_bounds("rrsw", *pair, 4)
    pair[side == "draft"][0] = weight
    for bound_B, sound_B in zip(acceptance_bounds("rrsw", *pair, 4), sound, strict=True):
        assert bound_B.isnan().tolist() == [True, False]
        assert float(bound_B[1]) == float(sound_B[1])
