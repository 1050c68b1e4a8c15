"""The files that keep measured costs: ``BUNDLE/calibration/`` has one per backend, machine and batch size.

They are added to a bundle after it was built, and its hash does not cover them.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spectr_runtime.bundle import Bundle
from spectr_runtime.bundle.layout import CALIBRATION
from spectr_runtime.errors import BundleError
from spectr_runtime.files import replace
from spectr_runtime.planning.costs import Costs
from spectr_runtime.speculation.plan import Plan


def machine_name(device: torch.device) -> str:
    """Return the machine that costs are measured on: the GPU, or the processor and the number of its usable cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} cores"


def calibration_file(bundle: Bundle, backend: str, device: torch.device, rows: int) -> Path:
    """Return the path of the file that keeps the costs of a backend and a batch size on this machine."""
    name = re.sub(r"[^a-z0-9]+", "-", f"{backend} {machine_name(device)} {rows} rows".lower()).strip("-")
    return bundle.path / CALIBRATION / f"{name}.json"


def load_costs(bundle: Bundle, backend: str, device: torch.device, rows: int, plans: Sequence[Plan]) -> Costs | None:
    """Return the costs of some plans that were measured earlier on a machine like this one.

    Returns:
        The costs; None if there is no file, or if it lacks one of the plans.

    Raises:
        BundleError: The file is malformed.
    """
    path = calibration_file(bundle, backend, device, rows)
    if not path.is_file():
        return None
    try:
        costs = Costs.from_json(json.loads(path.read_text(encoding="utf-8"))["costs"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{path} is malformed: {error!r}.", hint="Delete it, or calibrate again.") from error
    return costs if all(str(plan) in costs.table for plan in plans) else None


def save_costs(path: Path, costs: Costs, facts: Mapping[str, Any]) -> None:
    """Write costs, with the circumstances of their measurement."""
    path.parent.mkdir(exist_ok=True)
    replace(path, [json.dumps({**facts, "costs": costs.to_json()}, indent=2).encode(), b"\n"])


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
