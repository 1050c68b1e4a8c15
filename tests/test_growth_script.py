"""``benchmarks/growth.py``: what describes growth has known values, parts are merged, and the text tells of them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from click.testing import CliRunner
from scripts import ROOT, load_script

from spectr_runtime import Completion, SpeculationStats, Usage

SIZES = (1, 2, 4, 8)


@pytest.fixture
def growth(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load_script("benchmarks/growth.py")


@pytest.fixture
def curves(growth: ModuleType) -> ModuleType:
    return load_script("benchmarks/papers/growth_curves.py")


def test_a_power_is_found_between_the_ends(curves: ModuleType) -> None:
    assert curves.power(SIZES, [3.0 * size**1.5 for size in SIZES]) == pytest.approx(1.5)


def test_a_line_is_found_and_how_far_a_curve_is_off(curves: ModuleType) -> None:
    exact = curves.line(SIZES, [5 + 0.5 * size for size in SIZES])
    assert exact == pytest.approx({"start": 5, "each": 0.5, "deviation": 0}, abs=1e-9)
    # (1 - f / 3)^2 + (1 - f)^2 is least for f = 1.2, which is off by 0.6 of 3 and by 0.2 of 1.
    constant = curves.line((-1, 1, -1, 1), [3, 3, 1, 1])
    assert constant == pytest.approx({"start": 1.2, "each": 0, "deviation": 0.6}, abs=1e-9)


def test_sizes_take_turns_and_medians_have_their_range(curves: ModuleType) -> None:
    taken: list[int] = []

    def measure(size: int) -> dict[str, float]:
        taken.append(size)
        return {"time": 10.0 * size + len(taken)}

    found = curves.collect((1, 2), 3, measure)
    assert taken == [1, 2, 2, 1, 1, 2]
    assert found["curves"]["time"]["median"] == [14.0, 23.0]
    assert (found["curves"]["time"]["least"], found["curves"]["time"]["most"]) == ([11.0, 22.0], [15.0, 26.0])


def test_a_full_round_ends_with_the_first_row_and_leaves_reading_out(
    growth: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = SimpleNamespace(timing=SimpleNamespace(prefill=7.0), rounds=Counter(kseq=4))

    def generate(_requests: object) -> Iterator[Completion]:
        decoder.timing.prefill += 0.5
        for rounds in (3, 5):
            decoder.rounds["kseq"] += rounds
            stats = SpeculationStats(rounds=rounds, accepted_at_depth=(2, 1))
            yield Completion(str(rounds), "", (), "length", Usage(1, 1), stats)

    decoder.generate = generate
    monkeypatch.setattr(growth.time, "perf_counter", iter([10.0, 16.5]).__next__)
    counts: Counter[str] = Counter()
    assert growth.full_round(decoder, (), counts) == pytest.approx((6.5 - 0.5) / 3)
    assert counts == {"rounds": 8, "accepted": 6}


def test_parts_are_merged_into_one_file(growth: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def part(value: float) -> dict[str, object]:
        return {"sizes": [1, 2], "curves": {"time": growth.describe((1, 2), [[value], [2 * value]])}}

    output = tmp_path / "growth.json"
    monkeypatch.setattr(growth.Bundle, "open", lambda path: None)
    monkeypatch.setattr(growth, "draw", lambda result, path: None)
    for value, parts in ((1.0, ("rows", "context")), (3.0, ("rows",))):
        chosen = {name: lambda bundle, sizes, value=value: part(value) for name in growth.PARTS}
        monkeypatch.setattr(growth, "PARTS", chosen)
        options = [option for name in parts for option in ("--part", name)]
        result = CliRunner().invoke(growth.main, [str(tmp_path), *options, "--output", str(output)])
        assert result.exit_code == 0, result.output
    merged = json.loads(output.read_text(encoding="utf-8"))
    assert [(name, one["curves"]["time"]["median"]) for name, one in merged.items()] == [
        ("context", [1.0, 2.0]),
        ("rows", [3.0, 6.0]),
    ]
    assert all(one["processor"] and one["date"] for one in merged.values())


def test_the_text_tells_speeds_from_rounds_and_what_they_write(growth: ModuleType) -> None:
    from quoting.growth import QUOTES

    def curve(*times: float) -> dict[str, object]:
        return growth.describe((1, 4), [[0.9 * time, time, 1.1 * time] for time in times])

    head = {"date": "2020-01-01", "cores": 2, "processor": "P", "versions": {}}
    found = {"round, plain": curve(20, 40), "round, race": curve(30, 80), "round to plain's, race": curve(1.5, 2.0)}
    part = head | {"sizes": [1, 4], "repeats": 3, "tokens_per_round": {"plain": 1, "race": 3}, "curves": found}
    text = QUOTES["growth-rows"][1]({"rows": part})
    assert "A row writes 3.00 (race) tokens in a round. Rounds grow with the powers plain 0.50 and race 0.71." in text
    assert "| round, plain | 20 | 40 | 20 % | 0.50 | 0.50 | 13.3 + 6.67 n, within 0 % |" in text
    assert "| plain, tokens/s | 50 | 100 |" in text
    assert "| race, tokens/s | 100 | 150 |" in text
    assert "| race, to plain | 2.00 (1.82 to 2.22) | 1.50 (1.36 to 1.67) |" in text
