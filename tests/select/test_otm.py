"""Optimal transport by weights: it is lossless whatever the weights are, and its acceptance is near the optimum."""

from __future__ import annotations

import pytest
import torch

from spectr_select import acceptance, output_law
from spectr_select.law import normalised
from spectr_select.rules import otm


@pytest.mark.parametrize("iterations", [1, 3])
def test_an_unfinished_solution_is_as_exact(iterations: int, laws, monkeypatch, proposed_once) -> None:
    monkeypatch.setattr(otm, "_ITERATIONS", iterations)
    target_BV, draft_BV = laws("random", 20, 4)
    assert float((output_law("otm", target_BV, draft_BV, 2) - target_BV).abs().max()) <= 1e-12


@pytest.mark.parametrize("bins", [1, 2, 3])
def test_tokens_that_share_bins_are_as_exact(bins: int, kind, laws, monkeypatch, proposed_once) -> None:
    monkeypatch.setattr(otm, "_BINS", bins)
    target_BV, draft_BV = laws(kind, 20, 4)
    strays_B = (output_law("otm", target_BV, draft_BV, 3) - target_BV / target_BV.sum(1, keepdim=True)).abs().sum(1) / 2
    assert float(strays_B.max()) <= 1e-12


def test_a_coarse_chance_is_found(laws, monkeypatch, proposed_once) -> None:
    """The weights may be arbitrary, but the chances must be those that follow from the weights."""
    monkeypatch.setattr(otm, "_FINE", 2.0)
    target_BV, draft_BV = laws("random", 20, 4)
    assert float((output_law("otm", target_BV, draft_BV, 3) - target_BV).abs().max()) > 1e-6


@pytest.mark.parametrize("k", [1, 2, 3])
def test_chances_are_those_of_the_proposal(k: int, kind, laws, enumerated, proposed_once) -> None:
    target_BV, draft_BV = laws(kind, 12, 4)
    target_BV, draft_BV = normalised(target_BV), normalised(draft_BV)
    done_B = enumerated("otm", target_BV, draft_BV, k)
    torch.testing.assert_close(done_B, acceptance("otm", target_BV, draft_BV, k), rtol=0, atol=1e-12)


@pytest.mark.parametrize("k", [2, 8, 64])
def test_chances_of_extreme_weights(k: int) -> None:
    """Compare the quadrature with one of more nodes over a wider range."""
    generator = torch.Generator().manual_seed(k)
    weight_BM = (otm._LOWEST * torch.rand((50, 12), generator=generator, dtype=torch.float64)).exp()
    weight_BM = weight_BM / weight_BM.amax(1, keepdim=True)
    offered_BM = (6 * torch.randn((50, 12), generator=generator, dtype=torch.float64)).softmax(1)
    found_BM = otm._chances(weight_BM, offered_BM, torch.full((50,), float(k), dtype=torch.float64), otm._FINE)
    time_Q = torch.arange(-42, 36, 0.05, dtype=torch.float64).exp()
    alive_BMQ = (-weight_BM[:, :, None] * time_Q).exp()
    others_BQ = (offered_BM[:, :, None] * alive_BMQ).sum(1) ** (k - 1)
    exact_BM = 0.05 * k * (weight_BM[:, :, None] * time_Q * alive_BMQ * others_BQ[:, None]).sum(2)
    assert float((offered_BM * (found_BM - exact_BM)).abs().sum(1).max()) < 1e-13


@pytest.mark.parametrize("k", [1, 2, 4, 8])
def test_nearly_all_of_the_optimum_is_accepted(k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn((2, 12, 300), generator=generator, dtype=torch.float64)
    target_BV, draft_BV = logits[0].softmax(1), (logits[0] + 0.5 * logits[1]).softmax(1)
    reached_B, optimum_B = acceptance("otm", target_BV, draft_BV, k), acceptance("optimal", target_BV, draft_BV, k)
    assert float((reached_B - optimum_B).max()) <= 1e-9
    assert float((optimum_B - reached_B).mean()) < 0.01
    if k in (2, 4):
        assert float((reached_B - acceptance("kseq", target_BV, draft_BV, k)).mean()) > 0.03
