from __future__ import annotations

import random

import pytest
from scipy.stats import kstest

from spectr_jobs.commands.uniformity import Uniformity


@pytest.mark.parametrize("count", [1, 7, 400])
def test_the_distance_is_kolmogorovs_and_the_p_value_never_below_the_exact_one(count: int):
    generator = random.Random(count)
    numbers = [generator.random() ** 1.1 for _ in range(count)]
    found, exact = Uniformity.of(numbers), kstest(numbers, "uniform")
    assert found.count == count
    assert found.distance == pytest.approx(exact.statistic)
    assert exact.pvalue <= found.p_value
    assert count < 400 or found.p_value <= 1.2 * exact.pvalue


@pytest.mark.parametrize("count", [5, 50, 500])
def test_uniform_numbers_rarely_look_otherwise(count: int):
    generator = random.Random(3)
    p_values = [Uniformity.of([generator.random() for _ in range(count)]).p_value for _ in range(2_000)]
    for level in (0.5, 0.1, 0.01):
        below = sum(p_value < level for p_value in p_values)
        assert below <= 2_000 * level + 4 * (2_000 * level) ** 0.5
    assert sum(p_value < 0.1 for p_value in p_values) > 50, "a bound that says nothing would pass too"


def test_numbers_that_are_pushed_up_a_little_are_found_when_there_are_enough():
    generator = random.Random(5)
    pushed = [generator.random() ** 0.9 for _ in range(5_000)]
    assert Uniformity.of(pushed[:100]).p_value > 0.01
    assert Uniformity.of(pushed).p_value < 1e-6


def test_the_resolution_is_the_distance_that_is_just_found():
    found = Uniformity(1_000, 0.0)
    assert Uniformity(1_000, found.resolution(1e-3)).p_value == pytest.approx(1e-3)
    assert Uniformity(1, 0.0).resolution(1e-3) == Uniformity.of([]).resolution(1e-3) == 1.0


def test_no_numbers_show_nothing():
    assert Uniformity.of([]) == Uniformity(0, 0.0)
    assert Uniformity.of([]).p_value == 1.0
