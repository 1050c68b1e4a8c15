"""Parity, texts and engines of every architecture: ``architectures.py``."""

from __future__ import annotations

from typing import Any

from quoting.words import measured, table

# What of each is at work in its test.
NOTES = {
    "llama": "grouped queries",
    "mistral": "sliding window",
    "qwen2": "biases, windows in some layers",
    "qwen3": "norms of queries and keys",
    "gemma": "scaled embedding, norms around one",
    "gemma2": "soft caps, windows in some layers",
    "gemma3_text": "windows in some layers, two rotary bases",
    "phi": "partial rotation",
    "phi3": "sliding window, one weight for queries, keys and values",
    "gpt2": "learned positions, tied embedding",
    "opt": "learned positions",
    "gpt_neox": "partial rotation, parallel layers",
    "stablelm": "partial rotation",
    "olmo2": "norms behind the layers",
    "granite": "multipliers of embedding, attention, residual and logits",
    "smollm3": "layers without rotation",
    "falcon": "one key/value head",
    "bloom": "linear biases (ALiBi)",
    "qwen3_moe": "mixture of experts",
    "mixtral": "mixture of experts",
    "gpt_oss": "mixture of experts, attention sinks, windows in some layers, YaRN",
}


def checked(result: dict[str, Any]) -> str:
    """A line for each architecture."""
    rows = []
    for line in result["lines"]:
        name, within, equal = line["architecture"], max(line["parity"].values()), line["equal_texts"]
        engines = ", ".join(name for name, outcome in line["engines"].items() if not outcome.startswith("refused"))
        rows.append((name, f"{within:.1e}", "yes" if equal else "no", engines, NOTES[name]))
    return f"Checked {measured(result, 'transformers', 'onnxruntime', 'tensorrt-rtx')}:\n\n" + table(
        (
            *("architecture", "logits within", "greedy text of `generate`", "TensorRT-RTX engines"),
            "at work in the test",
        ),
        rows,
    )


QUOTES = {"architectures": ("architectures.json", checked)}
