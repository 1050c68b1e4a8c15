"""Acceptance on instances whose values are published or were worked out by hand."""

from __future__ import annotations

import numpy
import pytest
import torch

from spectr_select import DraftTree, Noise, acceptance, division_factor, draw, select


def pair(target: list[float], draft: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor([target], dtype=torch.float64), torch.tensor([draft], dtype=torch.float64)


GOLDEN = pair([0.1, 0.2, 0.3, 0.4], [0.4, 0.3, 0.2, 0.1])
CERTIFIED = pair([309, 177, 14], [373, 580, 47])
BERNOULLI = pair([0.25, 0.75], [0.75, 0.25])


def zipf() -> tuple[tuple[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return a steep target law over 200 tokens with a close and a distant draft."""
    generator = numpy.random.default_rng(7)
    logits = -1.1 * torch.arange(1, 201, dtype=torch.float64).log()
    close = (logits + 0.5 * torch.from_numpy(generator.standard_normal(200))) / 1.2
    distant = logits + torch.from_numpy(generator.standard_normal(200))
    target_BV = logits.softmax(0)[None]
    return (target_BV, close.softmax(0)[None]), (target_BV, distant.softmax(0)[None])


CLOSE, DISTANT = zipf()


@pytest.mark.parametrize(
    ("rule", "k", "alpha"),
    [
        ("single", 1, 0.6),
        ("kseq", 2, 0.75),
        ("optimal", 2, 0.79),
        ("rrs", 2, 0.72),
        ("rrsw", 2, 0.764285714286),
        ("optimal-swor", 2, 0.834523809524),
        ("race", 2, 0.776190476190),
    ],
)
def test_golden_instance(rule: str, k: int, alpha: float) -> None:
    assert float(acceptance(rule, *GOLDEN, k)) == pytest.approx(alpha, abs=1e-11)


@pytest.mark.parametrize(
    ("rule", "alpha"),
    [
        ("optimal", 0.988871),
        ("kseq", 0.8827317864837),
        ("rrs", 169277 / 200000),
        ("rrsw", 192754417 / 200130000),
        ("optimal-swor", 1),
    ],
)
def test_certified_instance(rule: str, alpha: float) -> None:
    assert float(acceptance(rule, *CERTIFIED, 2)) == pytest.approx(alpha, abs=1e-12)


@pytest.mark.parametrize(
    ("rule", "k", "alpha"),
    [
        ("optimal", 2, 0.6875),
        ("kseq", 2, 0.648268),
        ("rrs", 2, 0.625),
        ("optimal", 8, 1),
        ("kseq", 8, 0.962963),
        ("rrs", 8, 0.933258),
    ],
)
def test_bernoulli_instance(rule: str, k: int, alpha: float) -> None:
    assert float(acceptance(rule, *BERNOULLI, k)) == pytest.approx(alpha, abs=5e-7)


@pytest.mark.parametrize(
    ("laws", "rule", "k", "alpha"),
    [
        (CLOSE, "optimal", 2, 0.99917),
        (CLOSE, "kseq", 2, 0.92758),
        (CLOSE, "rrs", 2, 0.89844),
        (CLOSE, "race", 2, 0.93361),
        (CLOSE, "greedy", 2, 0.94019),
        (DISTANT, "optimal", 4, 0.87326),
        (DISTANT, "kseq", 4, 0.78553),
        (DISTANT, "rrs", 4, 0.74524),
        (DISTANT, "race", 4, 0.83472),
        (DISTANT, "greedy", 4, 0.71489),
        (DISTANT, "optimal-swor", 4, 0.90793),
        (DISTANT, "rrsw", 4, 0.76290),
        (DISTANT, "optimal", 8, 0.99008),
        (DISTANT, "kseq", 8, 0.88505),
        (DISTANT, "rrs", 8, 0.82169),
        (DISTANT, "race", 8, 0.95189),
        (DISTANT, "greedy", 8, 0.90579),
        (DISTANT, "optimal-swor", 8, 0.99540),
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


@pytest.mark.parametrize(("laws", "alpha"), [(GOLDEN, 0.764285714286), (CERTIFIED, 192754417 / 200130000)])
def test_rejection_without_replacement(laws: tuple[torch.Tensor, torch.Tensor], alpha: float, enumerated) -> None:
    assert float(enumerated("rrsw", *laws, 2)) == pytest.approx(alpha, abs=1e-12)


@pytest.mark.parametrize(("k", "alpha"), [(4, 0.762), (8, 0.863)])
def test_rejection_without_replacement_by_sampling(k: int, alpha: float) -> None:
    rows, tree = 3000, DraftTree.paths(k, 1)
    noise = Noise(torch.arange(rows), torch.zeros(rows, dtype=torch.int64))
    target_BNV, draft_BPV = (law_BV[:, None].expand(rows, -1, -1) for law_BV in DISTANT)
    tokens_BN = torch.cat([torch.zeros((rows, 1), dtype=torch.int64), draw("rrsw", tree, 1, draft_BPV, noise)], 1)
    chosen = select("rrsw", tree, tokens_BN, target_BNV.expand(-1, tree.size, -1), draft_BPV, noise)
    # Five standard deviations, and one more because the expected value is itself from sampling.
    assert float(chosen.count_B.double().mean()) == pytest.approx(alpha, abs=6 * (alpha * (1 - alpha) / rows) ** 0.5)
