"""What ways of rounding lose, and a target's quantised copies as its drafts: ``precision.py``."""

from __future__ import annotations

from typing import Any

from quoting.words import counted, measured, numeral, percent, ratio, table

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


def copies(result: dict[str, Any]) -> str:
    """What a quantised copy of the demo target loses, how often it agrees with the target, and its speed as a draft."""
    rows = []
    for copy in result["copies"]:
        plans = [line for line in copy["plans"] if line["plan"] != "plain"]
        quality = (f"{copy['nats_per_token'] + copy['lost']:.3f}", f"{copy['lost']:.4f}")
        rounded = (f"{copy['lost_through_onnxruntime']:.4f}", percent(copy["agreement"], ".1f"))
        speeds = [ratio(**line["to_plain"]) for line in plans]
        rows.append((f"`{copy['draft']}`", f"{copy['bytes'] / copy['target_bytes']:.2f}", *quality, *rounded, *speeds))
    names = [f"`{line['plan']}`" for line in result["copies"][0]["plans"] if line["plan"] != "plain"]
    heads = ("copy", "bytes to the target's", "nats per token", "lost", "lost on a CPU", "agrees", *names)
    return (
        "Copies of the demo target as its draft, which `--draft int8` and `--draft int4` make, "
        f"{measured(result)}: what they lose by their rounded weights, and through ONNX Runtime's kernels for a CPU, "
        "which round what is multiplied with them as well; how often a draft of the copy is what the target draws; and "
        f"the speed beside plain decoding at one row, over {counted(result['prompts'], 'prompt')} in "
        f"{numeral(result['repeats'])} interleaved repeats.\n\n" + table(heads, rows)
    )


QUOTES = {"int4": ("precision.json", int4), "copies": ("precision.json", copies)}
