"""``benchmarks/acceptance.py``: the curve of a rule whose acceptance is known between bounds only."""

from __future__ import annotations

from types import ModuleType

import pytest
from scripts import ROOT, load_script


@pytest.fixture
def curves(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return load_script("benchmarks/acceptance.py")


def test_bounds_without_replacement_meet_until_there_is_too_much_to_sum(curves, monkeypatch) -> None:
    monkeypatch.setattr(curves, "FEWER_DRAFTS", (1, 2, 3, 6))
    (_, distant) = curves.zipf()
    bounds = {k: [float(bound_B) for bound_B in both] for k, both in curves.between(distant).items()}
    assert [round(bounds[k][0], 5) for k in (1, 2, 3)] == [0.60353, 0.68327, 0.72891]
    assert all(bounds[k][0] == bounds[k][1] for k in (1, 2, 3))
    assert 0 < bounds[6][1] - bounds[6][0] < 0.002
