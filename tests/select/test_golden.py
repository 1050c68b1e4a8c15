"""Numbers of the literature and of small instances that were worked out by hand."""

from __future__ import annotations

import pytest
import torch
from spectr_select import acceptance, division_factor

DRAFT = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64)
TARGET = torch.tensor([[0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)


@pytest.mark.parametrize(("rule", "k", "alpha"), [("single", 1, 0.6), ("kseq", 2, 0.75), ("optimal", 2, 0.79)])
def test_golden_instance(rule: str, k: int, alpha: float) -> None:
    assert float(acceptance(rule, TARGET, DRAFT, k)) == pytest.approx(alpha, abs=1e-12)


def test_golden_division_factor() -> None:
    assert float(division_factor(TARGET, DRAFT, 2)) == pytest.approx(1.5, abs=1e-12)
