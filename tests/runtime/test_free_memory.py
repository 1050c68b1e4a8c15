"""How much memory is free, as Linux and GPUs report it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from spectr_runtime import memory
from spectr_runtime.memory import free_memory


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files in which Linux reports its memory."""
    monkeypatch.setattr(memory, "_PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path / "cgroup")
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
