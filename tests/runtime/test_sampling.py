"""From logits to laws."""

from __future__ import annotations

import math

import pytest
import torch

from spectr_runtime import RequestError, SamplingParams
from spectr_runtime.laws.sampling import Sampling, truncate

CPU = torch.device("cpu")


def law(logits: list[float], **params: object) -> list[float]:
    sampling = Sampling.of([SamplingParams(**params)], len(logits), CPU)  # type: ignore[arg-type]
    laws_BMV, sound_B = sampling.laws(torch.tensor([[logits]]))
    assert sound_B.tolist() == [True]
    return laws_BMV[0, 0].tolist()


def test_temperature_divides_the_logits() -> None:
    assert law([0.0, math.log(3)]) == pytest.approx([0.25, 0.75])
    assert law([0.0, math.log(3)], temperature=0.5) == pytest.approx([0.1, 0.9])


def test_temperature_zero_takes_the_first_of_the_most_probable() -> None:
    assert law([1.0, 2.0, 2.0, 0.0], temperature=0) == [0, 1, 0, 0]


def test_top_k_keeps_k_tokens_and_ranks_ties_by_token() -> None:
    assert law([0.0, 1.0, 1.0, 1.0], top_k=2) == pytest.approx([0, 0.5, 0.5, 0])
    assert law([0.0, 1.0], top_k=9) == law([0.0, 1.0])


def test_a_huge_top_k_keeps_all() -> None:
    assert law([0.0, 1.0], top_k=10**30) == law([0.0, 1.0])


def test_the_smallest_temperature_is_sound() -> None:
    assert law([1000.0, -1000.0, 999.0], temperature=1e-5) == [1, 0, 0]


def test_top_p_keeps_the_smallest_set_that_reaches_p() -> None:
    logits = [math.log(p) for p in (0.1, 0.5, 0.15, 0.25)]
    assert law(logits, top_p=0.5) == pytest.approx([0, 1, 0, 0])
    assert law(logits, top_p=0.51) == pytest.approx([0, 2 / 3, 0, 1 / 3])
    assert law(logits, top_p=1e-9) == pytest.approx([0, 1, 0, 0])
    assert law(logits, top_p=0) == pytest.approx([0, 1, 0, 0])
    assert law(logits, top_p=1.0) == pytest.approx([0.1, 0.5, 0.15, 0.25])


def test_a_top_p_of_one_keeps_the_least_probable_tokens_of_a_large_vocabulary() -> None:
    logits_V = 3 * torch.randn(50_000, generator=torch.Generator().manual_seed(0))
    sampling = Sampling.of([SamplingParams(top_k=50_000)], 50_000, CPU)
    law_BMV, _ = sampling.laws(logits_V[None, None])
    assert (law_BMV > 0).all()


def test_top_p_looks_at_what_top_k_left() -> None:
    logits = [math.log(p) for p in (0.4, 0.3, 0.2, 0.1)]
    assert law(logits, top_k=2, top_p=0.55) == pytest.approx([1, 0, 0, 0])
    assert law(logits, top_p=0.55) == pytest.approx([4 / 7, 3 / 7, 0, 0])


def test_rows_keep_their_own_parameters() -> None:
    params = [SamplingParams(), SamplingParams(temperature=0), SamplingParams(top_k=1), SamplingParams(temperature=2.0)]
    logits_BMV = torch.randn((4, 3, 7), generator=torch.Generator().manual_seed(0))
    together, _ = Sampling.of(params, 7, CPU).laws(logits_BMV)
    for row, one in enumerate(params):
        alone, _ = Sampling.of([one], 7, CPU).laws(logits_BMV[row : row + 1])
        assert torch.equal(together[row], alone[0])


def test_logits_behind_the_shared_vocabulary_are_left_out() -> None:
    laws_BMV, _ = Sampling.of([SamplingParams()], 2, CPU).laws(torch.tensor([[[0.0, 0.0, 50.0]]]))
    assert laws_BMV.tolist() == [[[0.5, 0.5]]]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_row_that_is_not_finite_is_reported_and_disturbs_nobody(bad: float) -> None:
    logits_BMV = torch.zeros((3, 2, 4))
    logits_BMV[1, 1, 3] = bad
    laws_BMV, sound_B = Sampling.of([SamplingParams(temperature=t) for t in (1, 0, 1)], 4, CPU).laws(logits_BMV)
    assert sound_B.tolist() == [True, False, True]
    assert laws_BMV.isfinite().all()
    assert laws_BMV.sum(-1).allclose(torch.ones(3, 2))


def test_minus_infinity_is_a_probability_of_zero() -> None:
    assert law([0.0, -math.inf, 0.0]) == [0.5, 0, 0.5]


def test_truncation_leaves_the_kept_logits_as_they_are() -> None:
    logits = torch.tensor([[[3.0, 1.0, 2.0]]])
    assert truncate(logits, torch.tensor([2]), torch.tensor([1.0])).tolist() == [[[3.0, -math.inf, 2.0]]]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"temperature": -1}, "temperature is -1; it must be 0, or from 0.00001 to 1000."),
        ({"temperature": math.nan}, "temperature is nan; it must be 0, or from 0.00001 to 1000."),
        ({"temperature": 1e-6}, "temperature is 1e-06; it must be 0, or from 0.00001 to 1000."),
        ({"temperature": 10**400}, f"temperature is {10**400}; it must be 0, or from 0.00001 to 1000."),
        ({"stop": "ab"}, "stop is 'ab'; it must be a tuple of non-empty texts."),
        ({"top_p": -0.1}, "top_p is -0.1; it must be 0 to 1."),
        ({"top_p": 1.5}, "top_p is 1.5; it must be 0 to 1."),
        ({"top_k": -1}, "top_k is -1; it must be 0 (all tokens) or more."),
        ({"max_tokens": -1}, "max_tokens is -1; it must be 0 or more."),
        ({"stop": ("a", "")}, "stop is ('a', ''); it must be a tuple of non-empty texts."),
        ({"min_p": 1.5}, "min_p is 1.5; it must be 0 to 1."),
        ({"presence_penalty": 2.5}, "presence_penalty is 2.5; it must be -2 to 2."),
        ({"frequency_penalty": math.nan}, "frequency_penalty is nan; it must be -2 to 2."),
        ({"repetition_penalty": 0}, "repetition_penalty is 0; it must be 0.01 to 100."),
        ({"min_tokens": 200}, "min_tokens is 200; it must be 0 to max_tokens."),
        ({"logprobs": 21}, "logprobs is 21; it must be 0 to 20, or nothing."),
        ({"seed": -1}, "seed is -1; it must be from 0 to 2**63 - 1."),
    ],
)
def test_values_outside_their_range_are_refused(params: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError) as caught:
        SamplingParams(**params)  # type: ignore[arg-type]
    assert str(caught.value) == message
    assert caught.value.param == next(iter(params))


def test_min_p_drops_what_is_improbable_beside_the_best() -> None:
    logits = [math.log(p) for p in (0.5, 0.3, 0.15, 0.05)]
    assert law(logits, min_p=0.5) == pytest.approx([5 / 8, 3 / 8, 0, 0])
    assert law(logits, min_p=1) == pytest.approx([1, 0, 0, 0])
    assert law(logits, min_p=0.0) == law(logits)
    assert law(logits, min_p=0.2, top_k=1) == pytest.approx([1, 0, 0, 0])


def test_rows_that_are_greedy_all_together_have_the_laws_of_greedy_rows_among_others() -> None:
    """Ties go to the first token, and logits that are not finite are noticed either way."""
    logits_BMV = torch.tensor(
        [[[0.5, 2.0, 2.0, -1.0]], [[0.0, torch.nan, 1.0, 0.0]], [[-torch.inf, 1.0, 0.0, torch.inf]]]
    )
    greedy, other = SamplingParams(temperature=0), SamplingParams()
    together_BMV, sound_B = Sampling.of([greedy] * 3, 4, CPU).laws(logits_BMV)
    among_BMV, also_B = Sampling.of([greedy] * 3 + [other], 4, CPU).laws(torch.cat([logits_BMV, logits_BMV[:1]]))
    assert sound_B.tolist() == also_B[:3].tolist() == [True, False, False]
    assert together_BMV[0].tolist() == among_BMV[0].tolist() == [[0.0, 1.0, 0.0, 0.0]]
    assert together_BMV.isfinite().all()
