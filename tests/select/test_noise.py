from __future__ import annotations

import pytest
import torch
from scipy import stats

from spectr_select import Noise, Role, seed_of, seed_of_prompt
from spectr_select.philox import philox


def words(values: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([int(value, 16)]) for value in values.split())


def noise_of(rows: int, position: int = 0, first: int = 0) -> Noise:
    seeds = [seed_of(0, f"row {row}") for row in range(first, first + rows)]
    return Noise(torch.tensor(seeds), torch.full((rows,), position))


# Known answers of the Random123 distribution (kat_vectors, philox4x32 with 10 rounds).
@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        (
            "ffffffff ffffffff ffffffff ffffffff",
            "ffffffff ffffffff",
            "408f276d 41c83b0e a20bc7c6 6d5451fd",
        ),
        (
            "243f6a88 85a308d3 13198a2e 03707344",
            "a4093822 299f31d0",
            "d16cfe09 94fdcceb 5001e420 24126ea1",
        ),
    ],
)
def test_philox_gives_the_published_answers(counter: str, key: str, answer: str) -> None:
    assert philox(words(counter), words(key)) == words(answer)


def test_a_noise_number_is_philox_at_the_documented_counter() -> None:
    seed, position, node = -(2**62) + 12345, 77, 5
    noise = Noise(torch.tensor([seed]), torch.tensor([position]))
    key = torch.tensor([seed & 0xFFFFFFFF]), torch.tensor([seed >> 32 & 0xFFFFFFFF])
    counter = tuple(torch.tensor([word]) for word in (position, Role.EMIT << 24 | node, 1, 0))
    word = [int(word) for word in philox(counter, key)]
    numbers = noise.uniform(Role.EMIT, node, 4)[0]
    assert float(numbers[2]) == ((word[0] >> 5) * 2**26 + (word[1] >> 6)) * 2.0**-53
    assert float(numbers[3]) == ((word[2] >> 5) * 2**26 + (word[3] >> 6)) * 2.0**-53


def test_numbers_are_a_function_of_seed_position_role_and_node_alone() -> None:
    noise, other = noise_of(6, position=3), noise_of(2, position=3, first=4)
    torch.testing.assert_close(noise.uniform(Role.DRAFT, 2, 9)[4:], other.uniform(Role.DRAFT, 2, 9), rtol=0, atol=0)
    torch.testing.assert_close(noise.uniform(Role.DRAFT, 2, 9)[:, :4], noise.uniform(Role.DRAFT, 2, 4), rtol=0, atol=0)


def test_numbers_made_together_are_those_made_alone() -> None:
    few, many = noise_of(3, position=5), noise_of(600, position=5)
    for role in (Role.DRAFT, Role.ACCEPT, Role.EMIT):
        for node, count in ((0, 1), (31, 8), (32, 8), (31, 9)):
            assert torch.equal(few.uniform(role, node, count), many.uniform(role, node, count)[:3])


def test_numbers_of_different_keys_are_different_and_uncorrelated() -> None:
    count = 4000
    streams = [
        noise_of(1).uniform(Role.DRAFT, 0, count),
        noise_of(1, first=1).uniform(Role.DRAFT, 0, count),
        noise_of(1, position=1).uniform(Role.DRAFT, 0, count),
        noise_of(1).uniform(Role.ACCEPT, 0, count),
        noise_of(1).uniform(Role.DRAFT, 1, count),
    ]
    correlation = torch.corrcoef(torch.cat(streams))
    # The limit is five standard deviations of the correlation of independent numbers.
    assert float((correlation - torch.eye(len(streams))).abs().max()) < 5 / count**0.5


def test_uniform_numbers_are_uniform() -> None:
    numbers = noise_of(10).uniform(Role.ACCEPT, 1, 2001).flatten()
    assert float(numbers.min()) >= 0
    assert float(numbers.max()) < 1
    assert numbers.dtype == torch.float64
    assert stats.kstest(numbers.numpy(), "uniform").pvalue > 1e-6
    assert bool(((numbers * 2**53) % 1 == 0).all())
    assert bool(((numbers * 2**52) % 1 != 0).any())


def test_exponential_numbers_are_exponential_and_precise_where_small() -> None:
    numbers = noise_of(10).exponential(Role.EMIT, 1, 20001).flatten()
    assert float(numbers.min()) > 0
    assert float(numbers.max()) < torch.inf
    assert stats.kstest(numbers.numpy(), "expon").pvalue > 1e-6
    small = numbers[numbers < 1e-3]
    assert len(small) > 100
    assert len(small.unique()) == len(small)


@pytest.mark.parametrize(("high", "low"), [(0, 0), (0xFFFFFFFF, 0xFFFFFFFF)])
def test_exponential_numbers_are_positive_and_finite_at_both_ends(high, low, monkeypatch) -> None:
    monkeypatch.setattr(Noise, "_words", lambda *_: (torch.tensor([[high]]), torch.tensor([[low]])))
    number = float(noise_of(1).exponential(Role.EMIT, 0, 1))
    assert 0 < number < 40
    assert float(noise_of(1).uniform(Role.EMIT, 0, 1)) < 1


def test_race_numbers_belong_to_the_text_position() -> None:
    early, late = noise_of(3, position=10), noise_of(3, position=12)
    torch.testing.assert_close(early.exponential(Role.RACE, 5, 7), late.exponential(Role.RACE, 3, 7), rtol=0, atol=0)
    assert not torch.equal(early.exponential(Role.EMIT, 5, 7), late.exponential(Role.EMIT, 3, 7))


def test_seeds_are_stable_and_tell_records_samples_and_runs_apart() -> None:
    assert seed_of(0, "a") == seed_of(0, "a", 0)
    seeds = {
        seed_of(run, key, index) for run in (-1, 0, 1, 10, 2**70) for key in ("", "a", "0:a") for index in (0, 1, 10)
    }
    assert len(seeds) == 45
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)


def test_a_seed_keeps_its_value() -> None:
    assert seed_of(7, "record-1", 2) == 8376541434528676300
    assert seed_of_prompt(42, (5, 6, 7), 1) == 6608924484643176353


def test_seeds_of_prompts_tell_seeds_prompts_and_samples_apart() -> None:
    prompts = ((), (1,), (1, 2), (12,), (2, 1))
    seeds = {seed_of_prompt(seed, ids, sample) for seed in (0, 1, 2**63 - 1) for ids in prompts for sample in (0, 1)}
    assert len(seeds) == 30
    assert all(-(2**63) <= seed < 2**63 for seed in seeds)
    # A record whose id looks like a prompt does not share the prompt's noise.
    assert seed_of(0, "1,2") != seed_of_prompt(0, (1, 2))


def test_ill_shaped_seeds_are_refused() -> None:
    with pytest.raises(ValueError, match=r"int64; got torch.int32 and torch.int64"):
        Noise(torch.zeros(2, dtype=torch.int32), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"one length on one device; got \[2\] on cpu and \[3\] on cpu"):
        Noise(torch.zeros(2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64))


def test_a_node_beyond_the_counter_is_refused() -> None:
    with pytest.raises(ValueError, match="Node 16777216 has no noise"):
        noise_of(1).uniform(Role.DRAFT, 2**24, 1)
    with pytest.raises(ValueError, match="Node -1 has no noise"):
        noise_of(1).uniform(Role.DRAFT, -1, 1)


def test_numbers_made_together_are_the_numbers_made_alone() -> None:
    noise = noise_of(5, position=9)
    for role in (Role.DRAFT, Role.ACCEPT, Role.EMIT):
        for node, count in ((0, 1), (7, 8), (31, 3)):
            alone = noise._words(role, node, count)
            numbers = ((alone[0] >> 5) * 2**26 + (alone[1] >> 6)).double() * 2.0**-53
            torch.testing.assert_close(noise.uniform(role, node, count), numbers, rtol=0, atol=0)
