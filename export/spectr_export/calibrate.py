"""Measure what a round costs on this machine and keep the figures in the bundle, for ``--plan auto``."""

from __future__ import annotations

import datetime
import importlib.metadata
from pathlib import Path

from spectr_export.console import page
from spectr_runtime.bundle import Bundle
from spectr_runtime.engines import Backend
from spectr_runtime.planning.calibration import calibration_file, machine_name, save_costs
from spectr_runtime.planning.costs import Costs, measure
from spectr_runtime.planning.planner import RACES
from spectr_runtime.speculation.pair import Pair


def calibrate(bundle: Bundle, *, backend: Backend, device: str, rows: int) -> tuple[Costs, Path]:
    """Measure and keep the costs of every plan that an automatic plan chooses from.

    Args:
        bundle: The models.
        backend: Which engines run them.
        device: Where they run, as torch names it.
        rows: Rows of the batch; costs are kept for each batch size apart.

    Returns:
        The costs, and the file that holds them. The bundle's hash stays the same.

    Raises:
        UsageError: The backend does not run on the device.
        EngineError: The backend cannot run the bundle here.
    """
    pair = Pair(bundle, RACES, backend=backend, device=device, rows=rows)
    costs = measure(pair, RACES, bundle.manifest, rows)
    path = calibration_file(bundle, backend, pair.device, rows)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine_name(pair.device),
        "backend": backend,
        "versions": {name: importlib.metadata.version(name) for name in ("spectr", "torch")},
    }
    save_costs(path, costs, facts)
    return costs, path


def render(costs: Costs) -> str:
    """Milliseconds of a round as a table, for a person."""
    length = costs.lengths[-1]
    lines = [("plan", "".join(f"{rows:>9}" for rows in costs.rows))]
    for plan in RACES:
        cells = (f"{1e3 * costs.seconds(plan, rows, length):>9.1f}" for rows in costs.rows)
        lines.append((str(plan), "".join(cells)))
    title = f"milliseconds of a round at texts of {length} tokens, by rows of the batch"
    return f"{title}\n{page(lines, width=14)}"
