"""What ways of rounding lose: ``rounding.py``, which ``precision.py`` runs."""

from __future__ import annotations

from typing import Any

from quoting.words import measured, percent, table

WAYS = {
    "nearest, symmetric": "rounding to nearest, symmetric",
    "nearest, integer zero point": "rounding to nearest, integer zero points",
    "clipped, symmetric": "symmetric, each block clipped where it errs least (stacks of experts)",
    "k-quant, integer zero point": "k-quant of ONNX Runtime, integer zero points",
    "HQQ, floating-point zero point": "HQQ of ONNX Runtime, zero points that are no integers",
    "GPTQ, symmetric": "`int4`",
    "GPTQ, floating-point minimum": "`int4-asymmetric`",
}
MODELS = {"target": "demo target", "smollm2": "SmolLM2"}


def int4(result: dict[str, Any]) -> str:
    """Divergence from the original's laws, and acceptance as a draft, of every way and model."""
    losses = result["losses"]
    heads = [head for name in losses for head in (MODELS.get(name, name), "accepted")]
    rows = []
    for way, told in WAYS.items():
        found = [facts["ways"][way]["heapq"] for facts in losses.values()]
        shown = [text for one in found for text in (f"{one['divergence']:.4f}", percent(one["acceptance"], ".1f"))]
        rows.append((told, *shown))
    tokens = next(iter(losses.values()))["tokens"]
    return (
        "Nats per token lost by the demo target and by SmolLM2-135M-Instruct (its published Q4_1 file), as the "
        f"divergence of their laws from the original's on {tokens:,} tokens that no rounding has read, and the share "
        f"of the original's tokens that the rounded model as draft would have accepted, {measured(result)}:\n\n"
        + table(("rounding, in blocks of 32", *heads), rows)
    )


QUOTES = {"int4": ("precision.json", int4)}
