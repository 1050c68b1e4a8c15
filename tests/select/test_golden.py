"""Acceptance on instances whose values are published or were worked out by hand."""

from __future__ import annotations

import numpy
import pytest
import torch

from spectr_select import acceptance, division_factor


def pair(target: list[float], draft: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([target], dtype=torch.float64), torch.tensor([draft], dtype=torch.float64)


GOLDEN = pair([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1])
CERTIFIED = pair([309, 177, 14], [373, 580, 47])
BERNOULLI = pair([0.25, 0.75], [0.75, 0.25])


def zipf() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """A steep target of 200 tokens with a close and a distant draft."""
    generator = numpy.random.default_rng(7)
    logits = -1.1 * torch.arange(1, 201, dtype=torch.float64).log()
    close = (logits + 0.5 * torch.from_numpy(generator.standard_normal(200))) / 1.2
    distant = logits + torch.from_numpy(generator.standard_normal(200))
    target_BV = logits.softmax(0)[None]
    return (target_BV, close.softmax(0)[None]), (target_BV, distant.softmax(0)[None])


CLOSE, DISTANT = zipf()


@pytest.mark.parametrize(("rule", "k", "alpha"), [("single", 1, 0.6), ("kseq", 2, 0.75), ("optimal", 2, 0.79)])
def test_golden_instance(rule: str, k: int, alpha: float) -> None:
    assert float(acceptance(rule, *GOLDEN, k)) == pytest.approx(alpha, abs=1e-12)


@pytest.mark.parametrize(("rule", "alpha"), [("optimal", 0.988871), ("kseq", 0.8827317864837)])
def test_certified_instance(rule: str, alpha: float) -> None:
    assert float(acceptance(rule, *CERTIFIED, 2)) == pytest.approx(alpha, abs=1e-12)


@pytest.mark.parametrize(
    ("rule", "k", "alpha"), [("optimal", 2, 0.6875), ("kseq", 2, 0.648268), ("optimal", 8, 1), ("kseq", 8, 0.962963)]
)
def test_bernoulli_instance(rule: str, k: int, alpha: float) -> None:
    assert float(acceptance(rule, *BERNOULLI, k)) == pytest.approx(alpha, abs=5e-7)


@pytest.mark.parametrize(
    ("laws", "rule", "k", "alpha"),
    [
        (CLOSE, "optimal", 2, 0.99917),
        (CLOSE, "kseq", 2, 0.92758),
        (DISTANT, "optimal", 4, 0.87326),
        (DISTANT, "kseq", 4, 0.78553),
        (DISTANT, "optimal", 8, 0.99008),
        (DISTANT, "kseq", 8, 0.88505),
    ],
)
def test_zipf_instances(laws: tuple[torch.Tensor, torch.Tensor], rule: str, k: int, alpha: float) -> None:
    assert float(acceptance(rule, *laws, k)) == pytest.approx(alpha, abs=6e-6)


def test_zipf_instances_are_the_ones_meant() -> None:
    for (target_BV, draft_BV), distance in ((CLOSE, 0.1815), (DISTANT, 0.3965)):
        assert float((target_BV - draft_BV).abs().sum() / 2) == pytest.approx(distance, abs=5e-5)


@pytest.mark.parametrize(
    ("laws", "rho"),
    [(GOLDEN, 1.5), (CERTIFIED, 1.3424444677846), (BERNOULLI, 1.593070)],
    ids=["golden", "certified", "b"],
)
def test_division_factors(laws: tuple[torch.Tensor, torch.Tensor], rho: float) -> None:
    assert float(division_factor(*laws, 2)) == pytest.approx(rho, abs=4e-7)


@pytest.mark.parametrize("a", [0.3, 0.6, 0.9])
@pytest.mark.parametrize("b", [0.05, 0.3])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_optimum_of_two_tokens(a: float, b: float, k: int) -> None:
    optimum = float(acceptance("optimal", *pair([1 - a, a], [1 - b, b]), k))
    assert optimum == pytest.approx(min(1, 2 - a - (1 - b) ** k), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_uniform_laws_make_kseq_optimal(k: int) -> None:
    target = [1.0] * 4 + [0.0] * 8
    expected = 1 - (1 - 1 / 3) ** k
    for rule in ("kseq", "optimal"):
        assert float(acceptance(rule, *pair(target, [1.0] * 12), k)) == pytest.approx(expected, abs=1e-12)
    assert float(division_factor(*pair(target, [1.0] * 12), k)) == pytest.approx(3 * expected, abs=1e-12)
