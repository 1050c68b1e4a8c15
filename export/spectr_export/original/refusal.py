"""Which models are refused before anything is built, and why.

The engine contract has one attention with an explicit mask and one growing cache per layer. A model that needs more
would be wrong in places that a short parity check may not reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spectr_runtime.errors import BundleError

OTHER = "Use a decoder-only model whose layers attend to all of the text or to a window of it."
# Bloom's linear biases are in the contract; these have theirs in attention of their own.
ALIBI = ("mpt",)


def refuse_unsupported(config: Any, capacity: int) -> None:
    """Refuse a model that the engine contract cannot express.

    Args:
        config: Its transformers configuration.
        capacity: Longest text in tokens.

    Raises:
        BundleError: Names what the model has that the contract has not.
    """
    for reason, hint in _reasons(config, capacity):
        raise BundleError(f"The {config.model_type} model has {reason}, which spectr does not serve.", hint=hint)


def _reasons(config: Any, capacity: int) -> Iterator[tuple[str, str]]:
    if config.is_encoder_decoder:
        yield "an encoder", OTHER
    if config.get_text_config() is not config:
        yield "several modalities", OTHER
    if getattr(config, "quantization_config", None) is not None:
        yield "quantised weights", "Use the checkpoint that it was quantised from."
    if config.model_type in ALIBI or getattr(config, "alibi", False):
        yield "ALiBi position biases", OTHER
    if getattr(config, "use_bidirectional_attention", False):
        yield "attention to tokens behind", OTHER
    unknown = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"})
    if unknown:
        yield f"layers of type {unknown[0]!r}", OTHER
    for short in _short_ranges(config):
        if short < capacity:
            yield (
                f"rotary positions that change once a text is longer than {short} tokens; the capacity is {capacity}",
                f"Use `--capacity {short}` or less.",
            )


def _short_ranges(config: Any) -> Iterator[int]:
    """Lengths up to which LongRoPE keeps its short factors, for all layers or for one type of layer each."""
    parameters = getattr(config, "rope_parameters", None) or {}
    for group in (parameters, *parameters.values()):
        if isinstance(group, Mapping) and group.get("rope_type") == "longrope":
            yield int(group["original_max_position_embeddings"])
