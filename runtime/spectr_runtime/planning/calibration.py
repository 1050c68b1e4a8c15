"""The files that keep the costs of rounds, one per backend and machine.

Runs keep what they learnt in the user's cache, ``$XDG_CACHE_HOME/spectr/costs/BUNDLE/``. ``spectr-export calibrate``
keeps costs in ``BUNDLE/calibration/``, for machines whose cache does not last; they are added to a bundle after it was
built, and its hash does not cover them.

The costs by which a batch size is chosen are those of certain rounds behind texts of one length, and no later round
changes them. So each of these choices has a file of its own.
"""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spectr_runtime.bundle import Bundle
from spectr_runtime.bundle.layout import CALIBRATION
from spectr_runtime.errors import BundleError
from spectr_runtime.files import replace
from spectr_runtime.planning.costs import Costs
from spectr_runtime.planning.planner import AutoPlanner, FixedPlanner, Planner, menu_of
from spectr_runtime.speculation.plan import AUTO, PlanChoice


def machine_name(device: torch.device) -> str:
    """Return the machine that costs are measured on: the GPU, or the processor and the number of its usable cores."""
    if device.type == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    cores = len(os.sched_getaffinity(0))
    return f"{_processor()}, {cores} cores"


def open_planner(plan: PlanChoice, bundle: Bundle, backend: str, device: torch.device, rounds: str = "") -> Planner:
    """Return what chooses the plans of rounds: the given one, or for ``auto`` by what is known of costs here."""
    if plan != AUTO:
        return FixedPlanner(plan)
    costs = load_costs(bundle, backend, device, rounds)
    return AutoPlanner(costs, menu_of(plan, bundle.manifest), bundle.manifest.acceptance)


def calibration_file(bundle: Bundle, backend: str, device: torch.device, rounds: str = "") -> Path:
    """Return the path of the file in the bundle that keeps the costs of a backend on this machine.

    Args:
        bundle: The bundle.
        backend: Name of the backend.
        device: The device of the models.
        rounds: Which rounds these are, where they are certain ones; empty for those of runs whose calls differ.
    """
    return bundle.path / CALIBRATION / _name(backend, device, rounds)


def cache_file(bundle: Bundle, backend: str, device: torch.device, rounds: str = "") -> Path | None:
    """Return the path of the file in the user's cache that does so; None if the user has no home."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:
        return None
    return folder / "spectr" / "costs" / bundle.sha256[:16] / _name(backend, device, rounds)


def load_costs(bundle: Bundle, backend: str, device: torch.device, rounds: str = "") -> Costs:
    """Return what is known of the costs on a machine like this one; nothing, if no file is found.

    Args are those of ``calibration_file``.

    Raises:
        BundleError: The file of the bundle is malformed. A file of the cache that is malformed is passed over.
    """
    cached = cache_file(bundle, backend, device, rounds)
    if cached is not None:
        try:
            return _read(cached)
        except (OSError, *_MALFORMED):
            pass
    path = calibration_file(bundle, backend, device, rounds)
    if not path.is_file():
        return Costs()
    try:
        return _read(path)
    except _MALFORMED as error:
        raise BundleError(f"{path} is malformed: {error!r}.", hint="Delete it, or calibrate again.") from error


def keep_costs(bundle: Bundle, backend: str, device: torch.device, costs: Costs, rounds: str = "") -> None:
    """Write costs to the user's cache; nothing happens where it cannot be written."""
    path = cache_file(bundle, backend, device, rounds)
    if path is None:
        return
    try:
        save_costs(path, costs, {})
    except OSError:  # the next run learns again
        return


def save_costs(path: Path, costs: Costs, facts: Mapping[str, Any]) -> None:
    """Write costs, with the circumstances of their measurement."""
    path.parent.mkdir(parents=True, exist_ok=True)
    replace(path, [json.dumps({**facts, "costs": costs.to_json()}, indent=2).encode(), b"\n"])


_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)


def _read(path: Path) -> Costs:
    return Costs.from_json(json.loads(path.read_text(encoding="utf-8"))["costs"])


def _name(backend: str, device: torch.device, rounds: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{backend} {machine_name(device)} {rounds}".lower()).strip("-") + ".json"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
