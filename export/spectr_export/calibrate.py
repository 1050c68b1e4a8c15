"""Measures what a round costs on this machine and keeps the figures in the bundle, for ``--plan auto``."""

from __future__ import annotations

import datetime
import importlib.metadata
from pathlib import Path

from spectr_export.console import page
from spectr_runtime.backends import Backend
from spectr_runtime.bundle import Bundle
from spectr_runtime.planning.calibration import calibration_file, machine_name, save_costs
from spectr_runtime.planning.costs import Costs
from spectr_runtime.planning.measuring import measure
from spectr_runtime.planning.planner import RACES, TEXT_RACES, menu_of
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import AUTO


def calibrate(bundle: Bundle, *, backend: Backend, device: str, rows: int) -> tuple[Costs, Path]:
    """Measure the costs of every plan from which an automatic plan chooses, and write them into the bundle.

    Args:
        bundle: The models.
        backend: The engines that run the models.
        device: The device that runs them, as torch names it.
        rows: Rows of the batch.

    Returns:
        The costs, and the file that holds them. The bundle's hash does not change.

    Raises:
        UsageError: The backend does not run on the device.
        EngineError: The backend cannot run the bundle on this machine.
    """
    plans = menu_of(AUTO, bundle.manifest)
    pair = Pair(bundle, plans, backend=backend, device=device, rows=rows)
    costs = measure(pair, plans, bundle.manifest, rows)
    path = calibration_file(bundle, backend, pair.device)
    facts = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine_name(pair.device),
        "backend": backend,
        "versions": {name: importlib.metadata.version(name) for name in ("spectr", "torch")},
    }
    save_costs(path, costs, facts)
    return costs, path


def render(costs: Costs) -> str:
    """Return a table of the milliseconds of a round: a line for each plan, a column for each number of rows."""
    counts = costs.rows_seen()
    lines = [("plan", "".join(f"{rows:>9}" for rows in counts))]
    lines += [
        (str(plan), "".join(f"{1e3 * costs.seconds(plan, rows):>9.1f}" for rows in counts))
        for plan in filter(costs.rows_seen, (*RACES, *TEXT_RACES))
    ]
    return f"milliseconds of a round, by rows of the batch\n{page(lines, width=14)}"
