"""What was hoped for on a GPU, beside what a result file says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

Cells = Mapping[str, Mapping[str, Any]]
SELECTED = "V=32768, 1 rows, kseq"
PASS = "7b, 1 rows, plain"


class Goal(NamedTuple):
    """A goal and what was found.

    Attributes:
        what: The figure.
        wanted: The bound on it, in words.
        found: The figure; None if it was not measured.
        reached: Whether it is within the bound; None likewise.
    """

    what: str
    wanted: str
    found: float | None
    reached: bool | None


def goals(result: Mapping[str, Any]) -> list[Goal]:
    """Return the goals, those of decoding for every size that was measured."""
    cells, selected = (result["parts"].get(part, {}).get("cells", {}) for part in ("b", "d"))
    whole: Cells = {name: cell for name, cell in cells.items() if "error" not in cell}
    sizes = dict.fromkeys(cell["size"] for cell in whole.values())
    decoding = [goal for size in sizes for goal in _decoding(size, whole)]
    return [*decoding, _selection(whole, selected)]


def _decoding(size: str, cells: Cells) -> Iterator[Goal]:
    def figure(rows: int, plan: str, *names: str) -> Any:
        found: Any = cells.get(f"{size}, {rows} rows, {plan}")
        for name in names:
            found = None if found is None else found.get(name)
        return found

    best = _best_kseq(size, cells)
    speeds = [figure(1, plan, "tokens_per_second", "median") for plan in (best, "single:1:4")]
    over_single = speeds[0] / speeds[1] if all(speeds) else None
    yield _goal(f"{size}: K-SEQ over plain, one row", ">=", 2.13, figure(1, best, "to_plain", "median"))
    yield _goal(f"{size}: K-SEQ over single, one row", ">=", 1.37, over_single)
    for rows in sorted({cell["rows"] for cell in cells.values() if cell["size"] == size}):
        least = 1.0 if rows <= 32 else 0.97
        yield _goal(f"{size}: auto over plain, {rows} rows", ">=", least, figure(rows, "auto", "to_plain", "median"))
    yield _goal(f"{size}: share of the bandwidth, plain, one row", ">=", 0.8, figure(1, "plain", "bandwidth_share"))
    for plan in ("plain", "kseq:4:4"):
        yield _goal(f"{size}: share of a round without kernels, {plan}, one row", "<", 0.1, figure(1, plan, "idle"))


def _best_kseq(size: str, cells: Cells) -> str:
    """Return the K-SEQ that is fastest at one row."""
    speeds = {
        cell["plan"]: cell["tokens_per_second"]["median"]
        for cell in cells.values()
        if (cell["size"], cell["rows"]) == (size, 1) and cell["plan"].startswith("kseq")
    }
    return max(speeds, key=speeds.__getitem__, default="kseq:4:4")


def _selection(cells: Cells, selected: Cells) -> Goal:
    """Return the goal of selection: its share of a pass of seven billion parameters."""
    seconds = selected.get(SELECTED, {}).get("captured", {}).get("seconds")
    passed = cells.get(PASS, {}).get("round_seconds")
    share = seconds / passed if seconds and passed else None
    return _goal(f"K-SEQ's selection ({SELECTED}, captured) in a plain round of 7b", "<", 0.03, share)


def _goal(what: str, sign: str, bound: float, found: float | None) -> Goal:
    holds: Mapping[str, Callable[[float], bool]] = {">=": lambda one: one >= bound, "<": lambda one: one < bound}
    return Goal(what, f"{sign} {bound:g}", found, None if found is None else holds[sign](found))
