"""Refuses models that the engine contract cannot express, before anything is built.

The contract has one attention with an explicit mask, and one growing cache per layer. A model that needs more could
pass the parity check, which reads short texts, and still give wrong logits on long ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from spectr_export.original.configuration.rotary import ORIGINAL, OWN_TYPES, rotary_groups
from spectr_runtime.errors import BundleError

OTHER = "Use a decoder-only model whose layers attend to all of the text or to a window of it."
# Architectures whose own attention computes linear position biases. Bloom's biases, in contrast, can be expressed.
ALIBI = ("mpt",)


def refuse_unsupported(config: Any, capacity: int) -> None:
    """Refuse a model that the engine contract cannot express.

    Args:
        config: The model's transformers configuration.
        capacity: Longest text in tokens.

    Raises:
        BundleError: The model needs something that the contract does not have; the message names it.
    """
    for reason, hint in _reasons(config, capacity):
        raise BundleError(f"The {config.model_type} model has {reason}, which spectr does not serve.", hint=hint)


def _reasons(config: Any, capacity: int) -> Iterator[tuple[str, str]]:
    if config.is_encoder_decoder:
        yield "an encoder", OTHER
    if config.get_text_config() is not config:
        yield "several modalities", OTHER
    if config.model_type in ALIBI or getattr(config, "alibi", False):
        yield "ALiBi position biases", OTHER
    if getattr(config, "use_bidirectional_attention", False):
        yield "attention to later tokens", OTHER
    unknown = sorted(set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"})
    if unknown:
        yield f"layers of type {unknown[0]!r}", OTHER
    yield from _unknown_rotation(config)
    for short in _short_ranges(config):
        if short < capacity:
            yield (
                f"rotary positions that change once a text is longer than {short} tokens; the capacity is {capacity}",
                f"Use `--capacity {short}` or less.",
            )


def _short_ranges(config: Any) -> Iterator[int]:
    """Yield the lengths up to which LongRoPE uses its short factors: one for all layers, or one per type of layer."""
    for group in rotary_groups(config).values():
        if group.get("rope_type") == "longrope":
            yield int(group[ORIGINAL])


def _unknown_rotation(config: Any) -> Iterator[tuple[str, str]]:
    """Yield the types of rotary positions that transformers does not have; it takes any, and fails later."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    known = {*OWN_TYPES, *ROPE_INIT_FUNCTIONS}
    for name, group in rotary_groups(config).items():
        kind = group.get("rope_type", "default")
        if kind not in known:
            where = ".".join(filter(None, ("rope_parameters", name, "rope_type")))
            yield (
                f"rotary positions of type {kind!r}",
                f"Correct rope_type in config.json, or build with `--config {where}=TYPE`; types are "
                f"{', '.join(sorted({'default', *ROPE_INIT_FUNCTIONS}))}.",
            )
