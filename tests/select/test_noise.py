from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from spectr_select import Noise, Role, seed_of, seed_of_prompt
from spectr_select.philox import philox
from spectr_select.splitmix import number_at, stream


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


@pytest.mark.parametrize("word", [0, 1, -1, 2**63 - 1, -(2**63)])
def test_exponential_numbers_are_positive_and_finite_at_both_ends(word: int, monkeypatch) -> None:
    monkeypatch.setattr("spectr_select.noise.stream", lambda *_: torch.tensor([[word]]))
    number = float(noise_of(1).exponential(Role.EMIT, 0, 1))
    assert 0 < number < 17


@pytest.mark.parametrize("share", [2.0**-60, 2.0**-40, 2.0**-20, 0.25])
def test_improbable_tokens_have_times_as_small_as_they_need(share: float, monkeypatch) -> None:
    """A time is below a bound as often as it should, to the bits of float32, however small the bound."""
    monkeypatch.setattr("spectr_select.noise.stream", lambda *_: torch.tensor([[int(share * 2**63)]]))
    number = float(noise_of(1).exponential(Role.RACE, 0, 1))
    assert number == pytest.approx(-math.log1p(-share), rel=3e-7)


# The first numbers of the reference implementation in C (Vigna, splitmix64.c) from these states.
@pytest.mark.parametrize(
    ("key", "numbers"),
    [
        (0, [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]),
        (1234567, [6457827717110365317, 3203168211198807973, 9817491932198370423]),
    ],
)
def test_splitmix_gives_the_published_answers(key: int, numbers: list[int]) -> None:
    found = stream(torch.tensor([key]), 3)[0]
    assert [int(number) % 2**64 for number in found] == numbers
    assert [int(number_at(torch.tensor([key]), place)[0]) for place in range(3)] == found.tolist()


@pytest.mark.parametrize("place", [0, 1, (Role.RACE << 24) + 5, 2**62 + 1, 2**63 - 1])
def test_one_place_of_all_streams_is_that_of_each(place: int) -> None:
    key_B = torch.tensor([0, 1234567, -1, 2**63 - 1, -(2**63)])
    assert torch.equal(number_at(key_B, place), number_at(key_B, torch.full((5,), place)))


def test_a_race_number_is_splitmix_at_the_documented_place() -> None:
    seed, position, depth = -(2**62) + 12345, 77, 5
    key = number_at(number_at(torch.tensor([seed]), position + depth), Role.RACE << 24)
    share = (stream(key, 9).double().abs() + 0.5) * 2.0**-63
    number = Noise(torch.tensor([seed]), torch.tensor([position])).exponential(Role.RACE, depth, 9)
    torch.testing.assert_close(number.double(), -torch.log1p(-share), rtol=1e-6, atol=0)


def test_race_numbers_of_neighbouring_seeds_positions_and_tokens_are_independent() -> None:
    """Correlations between 64 streams, of the numbers and of their signs, and of each number with the next."""
    count = 6000
    seeds, positions = torch.arange(8).repeat_interleave(8), torch.arange(8).repeat(8)
    number = Noise(seeds, positions * 1).exponential(Role.DRAFT, 1, count).double()
    for table in (number, (number < number.median()).double()):
        correlation = torch.corrcoef(table) - torch.eye(64)
        assert float(correlation.abs().max()) < 5.5 / count**0.5
        later = torch.corrcoef(torch.stack([table[:, 1:].flatten(), table[:, :-1].flatten()]))[0, 1]
        assert abs(float(later)) < 5 / (64 * count) ** 0.5


def test_the_winner_of_a_race_follows_the_law() -> None:
    """Chi-square over seeds, positions and tokens, with probabilities from a half to a thousandth."""
    rows, law_V = 200_000, torch.tensor([0.5, 0.3, 0.1, 0.05, 0.03, 0.01, 0.009, 0.001])
    for noise in (
        Noise(torch.arange(rows), torch.zeros(rows, dtype=torch.int64)),
        Noise(torch.zeros(rows, dtype=torch.int64), torch.arange(rows)),
    ):
        winner_B = (noise.exponential(Role.RACE, 1, len(law_V)) / law_V).argmin(1)
        assert (
            stats.chisquare(
                torch.bincount(winner_B, minlength=8), (law_V.double() / law_V.double().sum()) * rows
            ).pvalue
            > 1e-6
        )


def test_a_number_does_not_depend_on_how_many_are_made() -> None:
    many = noise_of(9, position=4).exponential(Role.RACE, 1, 5003)
    for row, count in ((0, 1), (3, 17), (8, 4099)):
        alone = Noise(noise_of(9).seed_B[row : row + 1], torch.tensor([4])).exponential(Role.RACE, 1, count)
        assert torch.equal(alone[0], many[row, :count])


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
