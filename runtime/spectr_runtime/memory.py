"""How much memory is free."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

_PROC, _CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


def free_memory(device: str) -> int | None:
    """Return how many bytes a process can still take on a device.

    For the CPU, that is the memory that Linux reports as available, or what a control group leaves if that is less.

    Returns:
        The bytes; None if the system does not report them, or has no such device.
    """
    if device.startswith("cuda") and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    meminfo = _PROC / "meminfo"
    if device != "cpu" or not meminfo.exists():
        return None
    available = int(_table(meminfo)["MemAvailable:"]) * 1024
    return min([available, *_left_in_group()])


def _left_in_group() -> list[int]:
    limit, used, stat = (_CGROUP / f"memory.{name}" for name in ("max", "current", "stat"))
    if not (limit.exists() and stat.exists()) or limit.read_text().strip() == "max":
        return []
    reclaimable = int(_table(stat).get("inactive_file", 0))
    return [int(limit.read_text()) - int(used.read_text()) + reclaimable]


def _table(path: Path) -> Mapping[str, str]:
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 1}
