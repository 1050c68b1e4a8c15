"""What a round of any rule and shape costs on two machines, from recorded results; ``budget.py`` divides by it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from regret import from_json
from shapes import seconds_of

from spectr_runtime.planning.costs import Curve
from spectr_select import DraftTree

RESULTS = Path(__file__).parent.parent / "results"
MODELS, LAWS, SIZE = "padded, float32", 4096, "7b"
CALLS = (0.02, 0.05)  # of the draft, in passes of the target
Cost = Callable[[str, DraftTree], float | None]


def machines() -> dict[str, Cost]:
    """Return for every machine what gives the cost of a round in rounds of plain decoding; None if it is not known."""
    costs, selection, gpu = (
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("regret", "selection", "gpu_predicted")
    )
    found: dict[str, Cost] = {}
    for rows in (1, 8):
        own = own_seconds(selection["lines"], rows)
        found[f"CPU, {rows} row{'s' if rows > 1 else ''}"] = on_cpu(costs[MODELS], rows, own)
    plain = gpu["parts"]["b"]["cells"][f"{SIZE}, 1 rows, plain"]["round_seconds"]
    cells = [cell for cell in gpu["parts"]["d"]["cells"].values() if (cell["V"], cell["rows"]) == (32768, 1)]
    level = {cell["rule"]: cell["captured"]["seconds"] / cell["length"] / plain for cell in cells}
    for call in CALLS:
        found[f"GPU, draft call {call}"] = on_gpu(level, call)
    return found


def own_seconds(lines: list[Mapping[str, Any]], rows: int) -> Callable[[str, DraftTree], float]:
    """Return what gives a rule's seconds of drawing and selecting, on straight lines between and beyond those known."""
    kept = [line for line in lines if (line["V"], line["B"]) == (LAWS, rows)]

    def at(rule: str, paths: int, length: int) -> float:
        found = [line for line in kept if line["rule"] == rule and line["L"] == length]
        return Curve({line["K"]: (line["select_ms"] + line["draw_ms"]) / 1e3 for line in found}).at(paths)

    def seconds(rule: str, tree: DraftTree) -> float:
        four, eight = (at(rule, len(tree.levels[1]), length) for length in (4, 8))
        return max(0.0, four + (eight - four) * (tree.depth - 4) / 4)

    return seconds


def on_cpu(recorded: Mapping[str, Any], rows: int, own: Callable[[str, DraftTree], float]) -> Cost:
    """Return the cost by recorded rounds of races, whose own drawing and selection is replaced by the rule's."""
    race_round = seconds_of(from_json(recorded["rows"][str(rows)]["milliseconds"]), rows)
    plain = race_round(DraftTree.chain(0))
    return lambda rule, tree: (race_round(tree) + own(rule, tree) - own("race", tree)) / plain


def on_gpu(level: Mapping[str, float], call: float) -> Cost:
    """Return the cost where a pass takes as long for any number of tokens; a level, a draft call and a selection."""
    return lambda rule, tree: 1 + tree.depth * (call + level[rule]) if rule in level else None
