"""What is measured: sizes of targets, plans, rows and amounts."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from spectr_runtime.speculation.plan import PlanChoice

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "examples" / "demo_pair"
FOLDERS = ("", "export", "jobs", "runtime", "benchmarks", "examples")


class Size(NamedTuple):
    """Sizes of a padded target; heads have 32 numbers, and two of them share keys, as in the demo's."""

    hidden: int
    mlp: int
    heads: int
    layers: int


# The demo's target as it is, and padded to 1.0 and 6.8 billion parameters, with the layers of models of that size.
SIZES = {"toy": Size(256, 704, 8, 10), "1b": Size(2048, 8192, 64, 16), "7b": Size(4096, 13056, 128, 32)}
CELLS = (
    *("plain", "auto", "single:1:4", "race:1:4", "race:2:4"),
    *(f"kseq:{drafts}:{length}" for drafts in (2, 4, 8) for length in (4, 8, 2)),
)
ROWS = (1, 32, 8, 128)
PROMPT = 64  # tokens; so that texts and trees have about 128, and caches seldom grow
TOKENS, REPEATS, TEXTS = 64, 3, 500


@dataclasses.dataclass(frozen=True, slots=True)
class Day:
    """What a run of ``gpu.py`` measures.

    Attributes:
        size: A name of ``SIZES``, of the target that parts b and c decode with.
        device: ``cuda`` or ``cpu``.
        cells: The plans of part b: ``plain``, ``auto``, or rule, K and L with colons.
        rows: Rows that part b decodes together.
        tokens: Tokens of a row of part b.
        repeats: Interleaved repeats of parts b and d.
        texts: Rows of part c.
        wheels: Folder with the wheels of part e; None for none.
    """

    size: str = "7b"
    device: str = "cuda"
    cells: tuple[str, ...] = CELLS
    rows: tuple[int, ...] = ROWS
    tokens: int = TOKENS
    repeats: int = REPEATS
    texts: int = TEXTS
    wheels: str | None = None

    def to_json(self) -> str:
        """Return the day as JSON."""
        return json.dumps(dataclasses.asdict(self))

    @staticmethod
    def from_json(text: str) -> Day:
        """Read what ``to_json`` returned."""
        read = json.loads(text)
        return Day(**read | {name: tuple(read[name]) for name in ("cells", "rows")})


def plan_of(cell: str) -> PlanChoice:
    """Return the plan of a cell.

    Raises:
        UsageError: There is no such plan.
    """
    from spectr_runtime import Plan

    if cell == "auto":
        return "auto"
    rule, *sizes = cell.split(":")
    return Plan(rule, *map(int, sizes)) if sizes else Plan.plain()


def surroundings(*folders: Path) -> dict[str, str]:
    """Return an environment in which Python finds the sources, which are not installed, behind some other folders."""
    paths = [*map(str, folders), *(str(ROOT / name) for name in FOLDERS), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
