"""``benchmarks/budget.py``: ceilings, ranks, costs and quotes on values that are known."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch
from scripts import load_benchmark

from spectr_select import DraftTree

GOLDEN_DRAFT, GOLDEN_TARGET = torch.tensor([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]], dtype=torch.float64)
ROUNDS = 40_000


@pytest.fixture(scope="module")
def modules() -> dict[str, ModuleType]:
    paths = {"budget": "budget", "costs": "papers/budget_costs", "quoting": "quoting/budget"}
    return {name: load_benchmark(path) for name, path in paths.items()}


@pytest.mark.parametrize(("replacement", "optimum"), [(True, 0.79), (False, 0.834524)])
def test_the_ceiling_of_one_token_is_the_optimum(
    modules: dict[str, ModuleType], replacement: bool, optimum: float
) -> None:
    laws, generator = GOLDEN_DRAFT.expand(ROUNDS, -1), torch.Generator().manual_seed(0)
    ratio_V = GOLDEN_TARGET / GOLDEN_DRAFT
    fair_SKL = ratio_V[laws.multinomial(2, True, generator=generator)][:, :, None]
    ratio_SKL = ratio_V[laws.multinomial(2, replacement, generator=generator)][:, :, None]
    bound_SL = modules["budget"].ceiling(fair_SKL, ratio_SKL)
    assert bound_SL.shape == (ROUNDS, 1)
    assert float(bound_SL.mean()) == pytest.approx(optimum, abs=0.015)


def test_the_ceiling_of_equal_laws_is_every_draft(modules: dict[str, ModuleType]) -> None:
    ones_SKL = torch.ones(6, 3, 4, dtype=torch.float64)
    assert (modules["budget"].ceiling(ones_SKL, ones_SKL) == 1).all()


def test_what_is_behind_is_told_by_pairs(modules: dict[str, ModuleType]) -> None:
    found = {"a": torch.tensor([1.0, 5, 3]), "b": torch.tensor([2.0, 6, 4])}
    ranked = modules["budget"].ranked(found, {"a": "1x2", "b": "2x1"})
    assert ranked["best"] == "b"
    assert ranked["rules"]["a"] == {"mean": (3.0, 1.1547), "behind": (1.0, 0.0), "shape": "1x2"}


def test_each_rule_takes_its_best_shape_and_with_one_path_is_another_rule(modules: dict[str, ModuleType]) -> None:
    counts = {
        ("single", 1, 4): torch.tensor([3.0, 3]),
        ("kseq", 2, 2): torch.tensor([2.0, 2]),
        ("rrs", 2, 2): torch.tensor([4.0, 4]),
    }
    worth = {(1, 4): {"single": 1.0, "kseq": 1.0, "rrs": 1.0}, (2, 2): {"kseq": 1.0, "rrs": 0.5}}
    rules = modules["budget"].best_shapes(counts, worth)["rules"]
    assert {rule: (one["mean"][0], one["shape"]) for rule, one in rules.items()} == {
        "single": (3.0, "1x4"), "kseq": (3.0, "1x4"), "rrs": (3.0, "1x4"),
    }  # fmt: skip


def test_a_level_costs_a_call_and_a_selection_and_a_race_what_was_recorded(modules: dict[str, ModuleType]) -> None:
    costs = modules["costs"]
    on_gpu = costs.on_gpu({"kseq": 0.04}, 0.02)
    assert on_gpu("kseq", DraftTree.paths(8, 4)) == pytest.approx(1.24)
    assert on_gpu("otm", DraftTree.paths(8, 4)) is None
    lines = [
        {"rule": "kseq", "V": 4096, "B": 1, "K": paths, "L": length, "select_ms": length, "draw_ms": paths}
        for paths in (2, 4) for length in (4, 8)
    ]  # fmt: skip
    own = costs.own_seconds(lines, 1)
    assert own("kseq", DraftTree.paths(2, 2)) == pytest.approx(4e-3)
    assert own("kseq", DraftTree.paths(8, 16)) == pytest.approx(24e-3)


def test_rules_within_two_errors_are_told_with_the_best(modules: dict[str, ModuleType]) -> None:
    rules = {
        "otm": {"mean": [3.0, 0.1], "behind": [0.0, 0.0], "shape": "2x4"},
        "kseq": {"mean": [2.9, 0.1], "behind": [0.1, 0.06], "shape": "1x8"},
        "rrs": {"mean": [2.9, 0.1], "behind": [0.1, 0.04], "shape": "4x2"},
    }
    cell = {"best": "otm", "rules": rules}
    assert modules["quoting"].ties(cell) == {"otm": "2x4", "single": "1x8"}
    assert modules["quoting"].leaders(cell) == "**otm 2x4** 3.00 (single 1x8)"
    assert modules["quoting"].standing("rrs", [cell]) == "0 of 1, 3.3 % behind"
