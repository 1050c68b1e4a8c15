"""The batch size of a process: the memory that there is, and what rounds of few and of many rows take.

What rounds take is measured once for a bundle, a machine and about this length of texts, and is kept; see
``calibration``. So the same input gets the same batch again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from spectr_runtime.backends import FLAVOURS, Backend
from spectr_runtime.bundle import Bundle, Limits
from spectr_runtime.errors import UsageError, first_line
from spectr_runtime.files import show_bytes
from spectr_runtime.memory import free_memory
from spectr_runtime.planning.batch import AT_ONCE, BatchSize, Demand, Room, choose, gains, without_costs
from spectr_runtime.planning.calibration import keep_costs, load_costs
from spectr_runtime.planning.compiled import compiled_sizes
from spectr_runtime.planning.costs import Costs
from spectr_runtime.planning.footprint import Footprint
from spectr_runtime.planning.measuring import add_reading, add_rounds
from spectr_runtime.planning.planner import FIRST, Acceptance, menu_of
from spectr_runtime.rows.drafting import DRAFT
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.plan import AUTO, PlanChoice, check_plan

# Of the free memory. The rest is for what engines compute in between, for caches while they grow, for other processes.
USABLE = 0.8
# The most rows that are looked at. A CPU multiplies little more while it reads a weight, and is at its limit before.
MOST = {"cpu": 64, "cuda": 256}
STEP = 4  # from one number of rows that is measured to the next
READ = 64  # tokens of a prompt; longer ones take about as much longer
TURNS = 3  # rounds of each plan that are measured, of which the first says little
SHORTEST = 32  # tokens; behind shorter texts rounds take about as long
# The seconds of measuring are at least these, and else this share of the run.
LEAST_SECONDS, SHARE = 2.0, 0.01


def fit(
    bundle: Bundle, plan: PlanChoice, demand: Demand, *, backend: Backend, device: str, processes: int = 1
) -> BatchSize:
    """Return how many rows a process decodes together, for most tokens per second.

    Args:
        bundle: The models.
        plan: What rounds draft.
        demand: What the process is to decode.
        backend: Which engines run the models.
        device: The device that the models run on, as torch names it.
        processes: How many processes share the memory of the machine, this one included.

    Raises:
        UsageError: Not one row fits into the free memory, or there is no such device.
        EngineError: The backend cannot run the bundle here.
    """
    check_plan(plan, bundle.manifest)
    try:
        resolved = torch.device(device)
    except RuntimeError as error:
        raise UsageError(f"Device {device!r}: {first_line(error)}", hint="Name cpu, cuda or cuda:N.") from error
    rows, longest = None, demand.longest
    if backend in FLAVOURS:
        rows, longest = compiled_sizes(bundle, plan, backend, device, longest, demand.completions)
    room = room_in(Footprint.of(bundle, plan, backend, longest, device), device, processes)
    if rows is not None:
        room = _smaller(room, Room(rows, "the engines were compiled for"))
    found = without_costs(demand, room)
    if found is not None:
        return found
    bench = _Bench(bundle, plan, demand, backend, resolved)
    most = min(demand.completions, room.rows or demand.completions, MOST.get(resolved.type, MOST["cuda"]))
    return choose(demand, room, bench.seconds(most), most)


def room_in(needed: Footprint, device: str, processes: int) -> Room:
    """Return how many rows fit into the memory that is free.

    Args:
        needed: The memory that decoding needs.
        device: The device of the models.
        processes: How many processes share the memory. On GPUs each is taken to have its own.

    Raises:
        UsageError: Not one row fits.
    """
    free = free_memory(device)
    if free is None:
        return Room(None, "fit")
    shared = processes > 1 and device == "cpu"
    share = free // processes if shared else free
    rows = max(needed.rows_in(int(USABLE * share)), min(needed.rows_in(share), 1))
    words = f"{show_bytes(share)}, a share of {processes:,} of what is free" if shared else show_bytes(share)
    if not rows:
        raise UsageError(
            f"Not one row fits into the memory of {device}: it needs {show_bytes(needed.total(1))} (weights "
            f"{show_bytes(needed.weights)}, cache {show_bytes(needed.cache_per_row)}, shared prefixes "
            f"{show_bytes(needed.prefixes(1))}, laws {show_bytes(needed.laws_per_row + needed.recorded_per_row)}); "
            f"there is {words}.",
            hint="Free memory, or build the bundle with a smaller --capacity or --quantise; --batch-size 1 tries it.",
        )
    return Room(rows, f"fit into {words}")


def _smaller(one: Room, other: Room) -> Room:
    return other if one.rows is None or (other.rows or 0) <= one.rows else one


class _Bench:
    """Measures rounds with few and with many rows.

    Args:
        bundle: The models.
        plan: What rounds draft, settled for the bundle.
        demand: What is to be decoded.
        backend: Which engines run the models.
        device: The device that the models run on.
    """

    def __init__(
        self, bundle: Bundle, plan: PlanChoice, demand: Demand, backend: Backend, device: torch.device
    ) -> None:
        self._bundle, self._plan, self._demand = bundle, plan, demand
        self._backend, self._device = backend, device
        self._length = _rounded(demand.length, bundle.manifest.limits.capacity)
        self._rounds = f"{self._length} tokens {plan}"
        self._read = min(self._length - 1, READ)
        self._menu = menu_of(plan, bundle.manifest)
        self._measured = [one for one in FIRST if one in self._menu] if plan == AUTO else [plan]
        self._acceptance = Acceptance(bundle.manifest.acceptance)

    def seconds(self, most: int) -> dict[int, float]:
        """Return the seconds of a token of every row and of its share of a prompt, by the number of rows.

        Numbers of rows are measured as long as more rows may pay and the time is worth it.

        Args:
            most: The most rows that may be decoded together, more than are decoded whatever rounds cost.
        """
        pair, found = None, dict[int, Costs]()
        for rows in _counts(most):
            if found and not gains(self._tokens(found)):
                break
            costs = load_costs(self._bundle, self._backend, self._device, self._name(rows))
            if not all(costs.rows_seen(plan) for plan in self._measured):
                if found and self._expected(found) > self._allowed(found):
                    break
                pair = pair or self._open(most)
                costs = self._measure(pair, rows)
            found[rows] = costs
        return self._tokens(found)

    def _name(self, rows: int) -> str:
        """Return the name of the costs of so many rows: tokens of a call cost more in more rows, so each are apart."""
        return f"{rows} rows {self._rounds}"

    def _measure(self, pair: Pair, rows: int) -> Costs:
        """Measure a number of rows and the reading of a prompt, and keep what was found."""
        costs, manifest = Costs(), self._bundle.manifest
        for _ in range(TURNS):
            add_reading(costs, pair, self._read, manifest.limits.tokens_per_call)
        add_rounds(costs, pair, self._measured * TURNS, manifest.vocabulary.size, rows, self._length)
        keep_costs(self._bundle, self._backend, self._device, costs, self._name(rows))
        return costs

    def _expected(self, found: Mapping[int, Costs]) -> float:
        """Return how long the next number of rows takes to measure, and those before it.

        It follows from the costs and not from the clock, so that the next process, which finds them, ends as well where
        this one does.
        """
        rounds = [sum(costs.seconds(plan, rows) for plan in self._measured) for rows, costs in found.items()]
        return TURNS * (self._reading(found) + sum(rounds) + STEP * rounds[-1])

    def _reading(self, found: Mapping[int, Costs]) -> float:
        """Return the seconds of the tokens that are read to measure; the shortest time is the least disturbed one."""
        return min(costs.reading(self._read) for costs in found.values())

    def _tokens(self, found: Mapping[int, Costs]) -> dict[int, float]:
        """Return the seconds of a token of every row, with the plan that is the fastest with so many rows."""
        reading = self._reading(found) / self._read * self._demand.prompt / max(self._demand.limit, 1.0)
        # What look-ups will find nobody knows; with a plan that takes nothing else, every round writes as much.
        drafted = {plan: self._acceptance.expected_tokens(plan) for plan in self._menu if plan.source == DRAFT}
        plans = drafted or dict.fromkeys(self._menu, 1.0)
        return {
            rows: rows * reading + min(costs.seconds(plan, rows) / tokens for plan, tokens in plans.items())
            for rows, costs in found.items()
        }

    def _allowed(self, found: Mapping[int, Costs]) -> float:
        """Return how long measuring may take: a small share of what the run takes with the best rows so far."""
        per_token = min(spent / rows for rows, spent in self._tokens(found).items())
        return max(LEAST_SECONDS, SHARE * self._demand.completions * self._demand.limit * per_token)

    def _open(self, rows: int) -> Pair:
        """Open the models with caches that are just large enough to measure so many rows."""
        manifest = self._bundle.manifest
        limits = Limits(self._length, manifest.limits.tokens_per_call)
        bundle = dataclasses.replace(self._bundle, manifest=dataclasses.replace(manifest, limits=limits))
        return Pair(bundle, self._menu, backend=self._backend, device=str(self._device), rows=rows)


def _counts(most: int) -> list[int]:
    """Return the numbers of rows to measure, ascending; the last one is the most."""
    counts = [AT_ONCE]
    while counts[-1] < most:
        counts.append(min(STEP * counts[-1], most))
    return counts


def _rounded(length: int, capacity: int) -> int:
    """Return the length of the texts that stand for some of about a length: a power of two, so that few are kept."""
    return min(max(1 << (length - 1).bit_length(), SHORTEST), capacity)
