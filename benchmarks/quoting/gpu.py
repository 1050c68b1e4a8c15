"""What a day on a GPU is foretold to give: ``gpu.py --predict``."""

from __future__ import annotations

from typing import Any

from gpu_day.goals import goals

from quoting.words import percent


def foretold(result: dict[str, Any]) -> str:
    """The goals that a skeptic would ask for first."""
    found = {goal.what: goal.found for goal in goals(result)}
    figures = {name: found[f"7b: {name}"] for name in ("K-SEQ over plain, one row", "auto over plain, 1 rows")}
    bandwidth, single = found["7b: share of the bandwidth, plain, one row"], found["7b: K-SEQ over single, one row"]
    (selecting,) = (share for what, share in found.items() if what.startswith("K-SEQ's selection"))
    device = result["predicted"]
    return (
        f"By that, on a GPU of {device['bandwidth'] / 1e12:.1f} TB/s and {device['arithmetic'] / 1e12:.0f} TFLOP/s, "
        f"K-SEQ would decode {figures['K-SEQ over plain, one row']:.1f} times as fast as plain decoding at 6.8 billion "
        f"parameters and one row, and `auto` {figures['auto over plain, 1 rows']:.1f} times; plain decoding would "
        f"reach {percent(bandwidth)} of the bandwidth, K-SEQ's selection would take {percent(selecting)} of a pass, "
        f"and the fastest K-SEQ would be {single:.2f} times as fast as a single draft of four tokens; of longer ones "
        "[the headline](benchmarks.md#spectrs-headline) foretells the speed. Nothing of this was measured "
        f"on a GPU: it was computed on {result['date']}."
    )


QUOTES = {"gpu-foretold": ("gpu_predicted.json", foretold)}
