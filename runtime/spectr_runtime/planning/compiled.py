"""What a run may expect of a bundle's compiled engines: how many rows they take, and how long a text in them may be."""

from __future__ import annotations

from typing import NamedTuple

from spectr_runtime.backends import Flavour
from spectr_runtime.bundle import Bundle
from spectr_runtime.bundle.engines import find_engines, smallest_engine
from spectr_runtime.engines.tensorrt_library import machine_key
from spectr_runtime.planning.planner import menu_of
from spectr_runtime.speculation.plan import PlanChoice, roles_of


class Sizes(NamedTuple):
    """The sizes of compiled engines.

    Attributes:
        rows: The most rows that engines for every text take.
        longest: How many tokens a text can have in the engines that are opened first.
    """

    rows: int
    longest: int


def compiled_sizes(
    bundle: Bundle, plan: PlanChoice, backend: Flavour, device: str, longest: int | None, most_rows: int
) -> Sizes:
    """Return the sizes of the engines that a plan needs.

    Args:
        bundle: The models.
        plan: What rounds draft.
        backend: What runs the engines.
        device: The device that runs them, as torch names it.
        longest: How many tokens texts will have at most; None for as many as the bundle takes.
        most_rows: How many rows will be opened at most; fewer if engines for every text take fewer.

    Raises:
        UsageError: The backend does not run on the device.
        EngineError: There is no engine for this machine.
        BundleError: The record of an engine is malformed.
    """
    plans, machine = menu_of(plan, bundle.manifest), machine_key(backend, device)
    roles = roles_of(plans, bundle.manifest)
    tree = max(one.tree.size for one in plans)
    capacity = bundle.manifest.limits.capacity
    slots = tree + (capacity if longest is None else min(longest, capacity))
    found = [find_engines(bundle, role, machine) for role in roles]
    rows = min(engines[-1][1].rows for engines in found)
    opened = min(rows, most_rows)
    held = min(smallest_engine(engines, rows=opened, slots=slots)[1].capacity for engines in found)
    return Sizes(rows, held - tree)
