"""Optimal transport by softmax weights: lossless whatever the weights are, and near the optimum."""

from __future__ import annotations

import pytest
import torch

from spectr_select import DraftTree, acceptance, output_law, sequence_law
from spectr_select.enumeration import text_law
from spectr_select.rules import otm


@pytest.mark.parametrize("k", [1, 2, 3])
def test_one_token_follows_the_target(k, kind, laws) -> None:
    target_BV, draft_BV = laws(kind, 1, 3)
    law_BV = output_law("otm", target_BV, draft_BV, k)
    strays_B = (law_BV - target_BV / target_BV.sum(1, keepdim=True)).abs().sum(1) / 2
    assert float(strays_B.max()) <= 1e-12


@pytest.mark.parametrize("iterations", [1, 3])
def test_an_unfinished_solution_is_as_exact(iterations: int, laws, monkeypatch) -> None:
    monkeypatch.setattr(otm, "_ITERATIONS", iterations)
    target_BV, draft_BV = laws("random", 3, 4)
    assert float((output_law("otm", target_BV, draft_BV, 2) - target_BV).abs().max()) <= 1e-12


def test_a_text_follows_the_target(models, distance) -> None:
    target, draft = models("mixed", 2)
    tree = DraftTree.paths(2, 2)
    assert distance(sequence_law("otm", tree, target, draft), text_law(target, 3)) <= 1e-12


def test_chances_are_those_of_the_proposal(laws, enumerated) -> None:
    target_BV, draft_BV = laws("random", 1, 3)
    done_B = enumerated("otm", target_BV, draft_BV, 3)
    torch.testing.assert_close(done_B, acceptance("otm", target_BV, draft_BV, 3), rtol=0, atol=1e-12)


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
