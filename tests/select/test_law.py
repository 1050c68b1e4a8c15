from __future__ import annotations

import pytest
import torch
from scipy import stats

from spectr_select import Noise, Role, check_laws, sample

LARGEST = 1 - 2.0**-53


def test_tokens_split_the_unit_interval_by_their_weights() -> None:
    law = torch.tensor([[0.0, 1.0, 0.0, 3.0, 0.0]])
    for u, token in ((0.0, 1), (0.2499999, 1), (0.25, 3), (0.5, 3), (LARGEST, 3)):
        assert sample(law, torch.tensor([u], dtype=torch.float64)).tolist() == [token]


def test_several_draws_from_one_law() -> None:
    law = torch.tensor([[1.0, 1.0], [0.0, 5.0]])
    u = torch.tensor([[0.1, 0.6, 0.4], [0.0, 0.5, LARGEST]], dtype=torch.float64)
    assert sample(law, u).tolist() == [[0, 1, 0], [1, 1, 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_a_token_of_weight_zero_is_never_drawn(dtype: torch.dtype, scale: float) -> None:
    vocabulary = 128_000
    law = torch.full((1, vocabulary), scale, dtype=dtype)
    law[0, ::3] = 0
    law[0, -5:] = 0
    u = torch.cat([torch.linspace(0, 1, 5000, dtype=torch.float64)[:-1], torch.tensor([LARGEST], dtype=torch.float64)])
    tokens = sample(law, u[None])[0]
    assert bool((law[0, tokens] > 0).all())
    assert int(tokens[0]) == 1
    assert int(tokens[-1]) == int(law[0].nonzero()[-1])


def test_a_weight_far_below_the_largest_keeps_its_probability() -> None:
    law = torch.tensor([[1.0, 2.0**-30]], dtype=torch.float64)
    edge = 1 / (1 + 2.0**-30)
    below, above = edge - 2.0**-45, edge + 2.0**-45
    assert sample(law, torch.tensor([[below, above]], dtype=torch.float64)).tolist() == [[0, 1]]


def test_draws_follow_the_law() -> None:
    rows, draws = 40, 1000
    law = torch.tensor([0.5, 0.25, 0.0, 0.2, 0.05])
    noise = Noise(torch.arange(rows), torch.zeros(rows, dtype=torch.int64))
    tokens = sample(law.expand(rows, -1), noise.uniform(Role.DRAFT, 0, draws))
    counts = tokens.flatten().bincount(minlength=5)
    assert int(counts[2]) == 0
    seen = law > 0
    assert stats.chisquare(counts[seen].numpy(), (law[seen].double() * rows * draws).numpy()).pvalue > 1e-6


def test_a_draw_does_not_depend_on_the_batch() -> None:
    law = torch.rand((9, 1001), generator=torch.Generator().manual_seed(0))
    u = torch.rand(9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    alone = [sample(law[row : row + 1], u[row : row + 1]) for row in range(9)]
    assert torch.equal(sample(law, u), torch.cat(alone))


@pytest.mark.parametrize("weights", [[float("nan"), 1.0], [float("inf"), 1.0], [-0.5, 1.5], [0.0, 0.0]])
def test_what_is_no_law_is_named(weights: list[float]) -> None:
    law = torch.ones((3, 2, 2))
    law[1, 1] = torch.tensor(weights)
    with pytest.raises(ValueError, match="row 1, node 1 is no law"):
        check_laws(law)


def test_laws_pass() -> None:
    check_laws(torch.tensor([[[0.0, 2.0], [1.0, 1e-30]]]))


@pytest.mark.parametrize("weights", [[float("nan")] * 3, [1.0, float("inf"), 0.0], [0.0, 0.0, 0.0], [-1.0, -2.0, -3.0]])
def test_what_is_no_law_gives_some_token_of_the_vocabulary(weights: list[float]) -> None:
    u = torch.tensor([[0.0, 0.4, LARGEST]], dtype=torch.float64)
    tokens = sample(torch.tensor([weights]), u)
    assert bool(((tokens >= 0) & (tokens < 3)).all())
