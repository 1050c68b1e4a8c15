"""Measures what a round costs on this machine and keeps the figures in the bundle, for ``--plan auto``."""

from __future__ import annotations

import datetime
import importlib.metadata
from pathlib import Path

from spectr_export.console import page
from spectr_runtime.backends import Backend
from spectr_runtime.bundle import Bundle
from spectr_runtime.planning.calibration import calibration_file, machine_name, save_costs
from spectr_runtime.planning.costs import Costs, measure
from spectr_runtime.planning.planner import RACES, menu_of
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import AUTO, settle


def calibrate(bundle: Bundle, *, backend: Backend, device: str, rows: int) -> tuple[Costs, Path]:
    """Measure the costs of every plan from which an automatic plan chooses, and write them into the bundle.

    Without a draft there is one, plain decoding.

    Args:
        bundle: The models.
        backend: The engines that run the models.
        device: The device that runs them, as torch names it.
        rows: Rows of the batch; the costs of each batch size are kept in a file of their own.

    Returns:
        The costs, and the file that holds them. The bundle's hash does not change.

    Raises:
        UsageError: The backend does not run on the device.
        EngineError: The backend cannot run the bundle on this machine.
    """
    plans = menu_of(settle(AUTO, bundle.manifest))
    pair = Pair(bundle, plans, backend=backend, device=device, rows=rows)
    costs = measure(pair, plans, bundle.manifest, rows)
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
    """Return a table of the milliseconds of a round: a line for each plan, a column for each number of rows."""
    length = costs.lengths[-1]
    lines = [("plan", "".join(f"{rows:>9}" for rows in costs.rows))]
    for plan in (one for one in RACES if str(one) in costs.table):
        cells = (f"{1e3 * costs.seconds(plan, rows, length):>9.1f}" for rows in costs.rows)
        lines.append((str(plan), "".join(cells)))
    title = f"milliseconds of a round at texts of {length} tokens, by rows of the batch"
    return f"{title}\n{page(lines, width=14)}"
