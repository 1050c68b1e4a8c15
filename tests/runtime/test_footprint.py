"""The memory plan: sums by hand, and what the engines then allocate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from eager_pair import eager_bundle

from spectr_runtime import Bundle, Decoder, Plan
from spectr_runtime.planning import footprint
from spectr_runtime.planning.footprint import Footprint, free_memory


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return eager_bundle(tmp_path_factory.mktemp("pair"))


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("kseq", 2, 3)], ids=str)
def test_the_caches_are_as_large_as_planned(bundle: Bundle, plan: Plan) -> None:
    planned = Footprint.of(bundle, plan)
    pair = Decoder(bundle, plan=plan, backend="torch", batch_size=3)._pair
    engines = [engine for engine in (pair.target, pair.draft) if engine is not None]
    assert sum(engine.cache.nbytes for engine in engines) == 3 * planned.cache_per_row
    assert sum(store._blocks.nbytes for store in pair._prefixes.values()) == 3 * planned.prefixes_per_row
    assert {engine.cache.capacity for engine in engines} == {planned.slots}
    roles = ["target", "draft"][: len(engines)]
    assert planned.weights == sum((bundle.path / role / "model.safetensors").stat().st_size for role in roles)


def test_the_sums_add_up() -> None:
    planned = Footprint(weights=100, slots=64, cache_per_row=6, prefixes_per_row=2, laws_per_row=2)
    assert planned.total(5) == 150
    assert [planned.rows_in(memory) for memory in (99, 100, 109, 110, 150)] == [0, 0, 0, 1, 5]


def test_auto_takes_what_its_largest_plan_takes(bundle: Bundle) -> None:
    assert Footprint.of(bundle, "auto").laws_per_row > Footprint.of(bundle, Plan("race", 1, 2)).laws_per_row


def test_laws_grow_with_the_tree_and_the_vocabulary(bundle: Bundle) -> None:
    size = bundle.manifest.vocabulary.size
    assert Footprint.of(bundle, Plan.plain()).laws_per_row == size * 16
    assert Footprint.of(bundle, Plan("kseq", 2, 3)).laws_per_row == 2 * 7 * size * 16


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files in which Linux reports its memory."""
    monkeypatch.setattr(footprint, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(footprint, "_CGROUP", tmp_path / "cgroup")
    (tmp_path / "proc").mkdir()
    (tmp_path / "cgroup").mkdir()
    (tmp_path / "proc" / "meminfo").write_text("MemTotal:  900 kB\nMemAvailable:  500 kB\n")
    return tmp_path


def test_the_memory_of_the_machine_counts(machine: Path) -> None:
    assert free_memory("cpu") == 500 * 1024
    (machine / "cgroup" / "memory.max").write_text("max\n")
    (machine / "cgroup" / "memory.stat").write_text("inactive_file 50\n")
    assert free_memory("cpu") == 500 * 1024


def test_a_control_group_with_a_lower_limit_counts_more(machine: Path) -> None:
    for name, text in (("max", "1000\n"), ("current", "700\n"), ("stat", "anon 600\ninactive_file 50\n")):
        (machine / "cgroup" / f"memory.{name}").write_text(text)
    assert free_memory("cpu") == 350


def test_a_device_that_is_not_there_has_no_memory() -> None:
    assert free_memory("gpu") is None


def test_another_system_does_not_tell(machine: Path) -> None:
    (machine / "proc" / "meminfo").unlink()
    assert free_memory("cpu") is None


def test_a_gpu_tells_its_own_memory() -> None:
    free = free_memory("cuda")
    if not torch.cuda.is_available():
        assert free is None
        return
    assert free is not None
    assert 0 < free <= torch.cuda.get_device_properties(0).total_memory
