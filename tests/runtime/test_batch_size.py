"""The batch size: a choice by memory, work and costs, the costs that it is made from, and what it may not change."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from eager_pair import eager_bundle

from spectr_runtime import Bundle, Plan, UsageError
from spectr_runtime.backends import Backend
from spectr_runtime.planning import compiled as planned
from spectr_runtime.planning import fitting
from spectr_runtime.planning.batch import AT_ONCE, BatchSize, Demand, Room, choose, without_costs
from spectr_runtime.planning.calibration import keep_costs, load_costs
from spectr_runtime.planning.costs import Costs
from spectr_runtime.planning.fitting import fit, room_in
from spectr_runtime.planning.footprint import Footprint
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import PlanChoice

ENDLESS = Room(None, "fit")


def affine(call: float, token: float, *rows: int) -> dict[int, float]:
    """The seconds of calls that take a time of their own, and one for every row."""
    return {count: call + token * count for count in rows}


def flat(cores: int, *rows: int) -> dict[int, float]:
    """The seconds of calls that take as long for one row as for as many as there are cores."""
    return {count: float(max(count, cores)) for count in rows}


@pytest.mark.parametrize(
    ("completions", "room", "rows", "reason"),
    [
        (1, ENDLESS, 1, "one completion is all"),
        (9, ENDLESS, 9, "all 9 completions at once"),
        (16, Room(16, "fit into 1 GB"), 16, "all 16 completions at once"),
        (16, Room(15, "fit into 1 GB"), 15, "as many rows as fit into 1 GB"),
        (1000, Room(1, "fit into 1 GB"), 1, "as many rows as fit into 1 GB"),
        (1000, Room(8, "the engines were compiled for"), 8, "as many rows as the engines were compiled for"),
    ],
)
def test_few_completions_or_little_memory_settle_it_without_costs(
    completions: int, room: Room, rows: int, reason: str
) -> None:
    found = without_costs(Demand(completions, 10, 10), room)
    assert found is not None
    assert (found.rows, found.reason) == (rows, reason)


def test_where_rows_and_completions_are_many_costs_are_needed() -> None:
    for room in (ENDLESS, Room(AT_ONCE + 1, "fit into 1 GB")):
        assert without_costs(Demand(AT_ONCE + 1, 10, 10), room) is None


def chosen(completions: int, room: int | None, seconds: Mapping[int, float]) -> BatchSize:
    most = min(completions, room or completions, 256)
    return choose(Demand(completions, 10, 10), Room(room, "fit"), seconds, most)


@pytest.mark.parametrize(
    ("seconds", "completions", "room", "line"),
    [
        # More rows gain nothing from sixteen on, or from a hundred on.
        (flat(16, 1, 4, 16, 64), 10**6, 900, "16: 900 rows would fit, and more than 16 gain under 5 %"),
        (flat(16, 1, 4, 16, 64), 10**6, None, "16: more than 16 gain under 5 %"),
        (flat(99, 1, 4, 16, 64, 256), 10**6, None, "256: more were not measured"),
        # Measuring was given up: the figures of 16 rows tell of 32 as well.
        (flat(99, 1, 4, 16), 10**6, 900, "32: 900 rows would fit, and more were not measured"),
        # A row takes a twentieth of a call: 192 rows have 98 % of the speed of 256.
        (affine(20, 1, 1, 4, 16, 64, 256), 10**6, 999, "192: 999 rows would fit, and more than 192 gain under 5 %"),
        (affine(20, 1, 1, 4, 16, 64, 256), 10**6, 30, "30: as many rows as fit"),
        # All at once where that costs no more than what little is left over would.
        (affine(20, 1, 1, 4, 16, 17), 17, 999, "17: all 17 completions at once"),
        (affine(20, 1, 1, 4, 16, 64, 70), 70, 999, "70: all 70 completions at once"),
        # A second generation of a few stragglers is avoided, by fewer rows as well.
        (affine(20, 1, 1, 4, 16, 30), 40, 30, "20: 30 rows would fit, and more than 20 gain under 5 %"),
        (affine(20, 1, 1, 4, 16, 32), 33, 32, "17: 32 rows would fit, and more than 17 gain under 5 %"),
        # More rows gain nothing at all, or took longer in a slow moment.
        (affine(0, 1, 16, 64), 10**6, 999, "16: 999 rows would fit, and more than 16 gain under 5 %"),
        ({16: 1.0, 64: 9.0}, 10**6, 999, "16: 999 rows would fit, and more than 16 gain under 5 %"),
        # Of a single number nothing follows but that more rows may pay.
        ({16: 1.0}, 10**6, 999, "32: 999 rows would fit, and more were not measured"),
    ],
)  # fmt: skip
def test_the_choice(seconds: Mapping[int, float], completions: int, room: int | None, line: str) -> None:
    assert str(chosen(completions, room, seconds)).removesuffix(" (measured)") == f"batch size {line}"


def test_a_disturbed_measurement_is_not_the_end() -> None:
    """Sixteen rows seemed to take less than four."""
    found = chosen(10**6, None, {1: 10.0, 4: 14.0, 16: 12.0, 64: 60.0})
    assert 16 <= found.rows <= 64


def test_more_memory_or_more_work_never_gives_a_slower_batch() -> None:
    seconds = affine(20, 1, 1, 4, 16, 64, 256)

    def speed(rows: int) -> float:
        return rows / (20 + rows)

    sizes = [chosen(10**6, room, seconds).rows for room in range(17, 400, 7)]
    assert all(speed(after) >= 0.95 * speed(before) for before, after in itertools.pairwise(sizes))
    assert all(size <= room for size, room in zip(sizes, range(17, 400, 7), strict=True))
    assert all(chosen(many, None, seconds).rows <= many for many in range(17, 200))


FOOTPRINT = Footprint(weights=1000, slots=64, per_slot=1, laws_per_row=20)


@pytest.mark.parametrize(
    ("free", "processes", "device", "rows", "words"),
    [
        (None, 1, "cpu", None, "fit"),
        (10_000, 1, "cpu", 70, "fit into 10 kB"),
        (10_000, 2, "cpu", 30, "fit into 5 kB, a share of 2 of what is free"),
        (10_000, 2, "cuda", 70, "fit into 10 kB"),
        (1_148, 1, "cpu", 1, "fit into 1.15 kB"),
    ],
)
def test_a_part_of_the_free_memory_is_for_rows(
    monkeypatch: pytest.MonkeyPatch, free: int | None, processes: int, device: str, rows: int | None, words: str
) -> None:
    monkeypatch.setattr(fitting, "free_memory", lambda name: free)
    assert room_in(FOOTPRINT, device, processes) == Room(rows, words)


def test_too_little_memory_for_one_row_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "free_memory", lambda name: 1_147)
    with pytest.raises(UsageError) as caught:
        room_in(FOOTPRINT, "cpu", 1)
    assert caught.value.message == (
        "Not one row fits into the memory of cpu: it needs 1.15 kB (weights 1 kB, cache 64 B, shared prefixes "
        "64 B, laws 20 B); there is 1.15 kB."
    )


@pytest.fixture
def bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bundle:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(fitting, "free_memory", lambda name: 10**9)
    monkeypatch.setattr(fitting, "LEAST_SECONDS", 1e9)
    made = eager_bundle(tmp_path / "pair")
    (made.path / "spectr.json").write_text("only its hash is asked for")
    return made


@pytest.mark.parametrize(("backend", "more"), [("torch", True), ("onnxruntime", True), ("tensorrt", False)])
def test_more_rows_fit_of_short_texts_where_caches_grow(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, backend: Backend, more: bool
) -> None:
    plan, few = Plan.plain(), 10
    needed = [Footprint.of(bundle, plan, "torch", longest) for longest in (None, 20)]
    free = needed[0].total(few)
    monkeypatch.setattr(fitting, "free_memory", lambda name: int(free / fitting.USABLE) + 1)
    # Engines of one size.
    monkeypatch.setattr(fitting, "compiled_sizes", lambda bundle, *_: (99, bundle.manifest.limits.capacity))
    rows = [
        fit(bundle, plan, Demand(1000, 12, 8, longest), backend=backend, device="cpu").rows for longest in (None, 20)
    ]
    assert rows == [few, needed[1].rows_in(free) if more else few]
    assert (rows[1] > rows[0]) == more


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every pair that was opened to measure."""
    rows: list[int] = []

    def open_pair(*arguments: object, **options: object) -> Pair:
        rows.append(options["rows"])  # type: ignore[arg-type]
        return Pair(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fitting, "Pair", open_pair)
    return rows


def fitted(bundle: Bundle, completions: int, plan: PlanChoice = "auto") -> str:
    return str(fit(bundle, plan, Demand(completions, 12, 8), backend="torch", device="cpu"))


@pytest.mark.parametrize("plan", ["auto", Plan.plain(), Plan("kseq", 2, 2)], ids=str)
def test_rounds_are_measured_once_and_the_choice_is_the_same_again(
    bundle: Bundle, opened: list[int], plan: PlanChoice
) -> None:
    first = fitted(bundle, 1000, plan)
    assert "measured" in first
    assert opened == [64]
    assert fitted(bundle, 1000, plan) == first
    assert opened == [64], "the costs were kept"


def test_few_completions_open_no_model(bundle: Bundle, opened: list[int]) -> None:
    assert fitted(bundle, 5) == "batch size 5: all 5 completions at once"
    assert opened == []


def kept(bundle: Bundle, length: int = 32) -> dict[int, Costs]:
    """The costs of plain rounds that were kept, by rows."""
    device, counts = torch.device("cpu"), (1, 4, 16, 20, 64)
    found = {rows: load_costs(bundle, "torch", device, f"{rows} rows {length} tokens plain") for rows in counts}
    return {rows: costs for rows, costs in found.items() if costs.rows_seen() == [rows]}


def test_more_is_measured_when_more_completions_need_it(
    bundle: Bundle, opened: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitting, "gains", lambda seconds: True)
    fitted(bundle, 20, Plan.plain())
    first = kept(bundle)
    assert [*first] == [16, 20]
    assert all(costs.reading(31) > 0 for costs in first.values())
    fitted(bundle, 300, Plan.plain())
    again = kept(bundle)
    assert [*again] == [16, 20, 64]
    assert all(again[rows].to_json() == costs.to_json() for rows, costs in first.items())
    assert opened == [20, 64]


def test_texts_of_another_length_are_measured_anew(bundle: Bundle) -> None:
    for prompt in (12, 40):
        fit(bundle, Plan.plain(), Demand(20, prompt, 8), backend="torch", device="cpu")
    assert [16 in kept(bundle, length) for length in (32, 64, 128)] == [True, True, False]


def test_measuring_takes_a_small_part_of_the_run(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fitting, "gains", lambda seconds: True)
    monkeypatch.setattr(fitting, "LEAST_SECONDS", 0.0)
    monkeypatch.setattr(fitting, "SHARE", 0.0)
    first = fitted(bundle, 300, Plan.plain())
    assert [*kept(bundle)] == [16]
    assert fitted(bundle, 300, Plan.plain()) == first
    assert [*kept(bundle)] == [16], "and not later on"
    monkeypatch.setattr(fitting, "SHARE", 1.0)
    fitted(bundle, 10**6, Plan.plain())
    assert [*kept(bundle)] == [16, 64]


def test_what_is_read_before_writing_counts(bundle: Bundle) -> None:
    """Where reading the prompts takes most of the time, more rows gain little."""
    short = fit(bundle, Plan.plain(), Demand(10**5, 12, 8), backend="torch", device="cpu")
    for rows, costs in kept(bundle).items():
        for _ in range(500):
            costs.observe_reading(31, 100.0)
        keep_costs(bundle, "torch", torch.device("cpu"), costs, f"{rows} rows 32 tokens plain")
    assert fit(bundle, Plan.plain(), Demand(10**5, 12, 8), backend="torch", device="cpu").rows == 16 < short.rows


def test_a_device_that_is_none_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="Device 'gpu': "):
        fit(bundle, "auto", Demand(9, 12, 8), backend="torch", device="gpu")


@dataclasses.dataclass
class Compiled:
    """The sizes of a compiled engine."""

    rows: int
    capacity: int


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[tuple[Path, Compiled]]]:
    """The compiled engines of each model, smallest first."""
    found = {
        "draft": [(Path(), Compiled(4, 64)), (Path(), Compiled(4, 192))],
        "target": [(Path(), Compiled(8, 64)), (Path(), Compiled(8, 192))],
    }
    monkeypatch.setattr(planned, "machine_key", lambda backend, device: "this machine")
    monkeypatch.setattr(planned, "find_engines", lambda bundle, role, machine: found[role])
    return found


Found = dict[str, list[tuple[Path, Compiled]]]


def test_compiled_engines_take_the_rows_that_they_were_compiled_for(bundle: Bundle, compiled: Found) -> None:
    for plan, rows in (("auto", 4), (Plan.plain(), 8)):
        size = fit(bundle, plan, Demand(1000, 12, 8), backend="tensorrt", device="cpu")  # type: ignore[arg-type]
        assert str(size) == f"batch size {rows}: as many rows as the engines were compiled for"


def test_memory_is_planned_with_the_engines_that_hold_the_longest_text(
    bundle: Bundle, compiled: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    for role, engines in compiled.items():
        compiled[role] = [(path, Compiled(99, one.capacity)) for path, one in engines]
    plan = Plan("kseq", 1, 3)
    whole = Footprint.of(bundle, plan, "tensorrt")
    assert whole.slots == 192
    monkeypatch.setattr(fitting, "free_memory", lambda name: whole.total(4))
    monkeypatch.setattr(fitting, "USABLE", 1.0)

    def rows(longest: int | None) -> int:
        return fit(bundle, plan, Demand(1000, 12, 8, longest), backend="tensorrt", device="cpu").rows

    assert [rows(longest) for longest in (61, 128, 999, None)] == [4] * 4
    assert rows(1) == rows(60) == Footprint.of(bundle, plan, "tensorrt", 60).rows_in(whole.total(4)) > 4
    assert planned.compiled_sizes(bundle, plan, "tensorrt", "cuda", 60, 9) == (99, 60)
    assert planned.compiled_sizes(bundle, plan, "tensorrt", "cuda", 61, 9) == (99, 188)


@pytest.mark.parametrize(("rows", "longest"), [(1, 60), (4, 60), (5, 188), (8, 188), (9, 188)])
def test_memory_is_planned_with_the_engines_that_take_the_rows(
    bundle: Bundle, compiled: Found, rows: int, longest: int
) -> None:
    """Engines for short texts take fewer rows; a larger batch opens those for long ones."""
    for role in compiled:
        compiled[role] = [(Path(), Compiled(4, 64)), (Path(), Compiled(8, 192))]
    assert planned.compiled_sizes(bundle, Plan("kseq", 1, 3), "tensorrt", "cuda", 9, rows) == (8, longest)
