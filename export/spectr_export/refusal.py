"""Which models are refused before anything is built, and why.

The engine contract has one attention operator with an explicit mask and one growing cache per layer. A model that needs
more would be wrong in places that a short parity check may not reach.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from spectr_runtime.errors import BundleError

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
# Their angles depend on the length of the whole text, so a cached key would have to change while the text grows.
TEXT_DEPENDENT_ROTARY = ("dynamic", "longrope")
ALIBI = ("bloom", "mpt")


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
    other = "Use a dense decoder-only model with full attention, such as Llama, Qwen2, GPT-2 or OPT."
    if config.is_encoder_decoder:
        yield "an encoder", other
    if config.get_text_config() is not config:
        yield "several modalities", other
    if getattr(config, "quantization_config", None) is not None:
        yield "quantised weights", "Use the checkpoint that it was quantised from."
    experts = [name for name in EXPERTS if (getattr(config, name, None) or 0) > 1]
    if experts:
        yield f"mixtures of experts ({experts[0]} = {getattr(config, experts[0])})", other
    if config.model_type in ALIBI or getattr(config, "alibi", False):
        yield "ALiBi position biases", other
    if getattr(config, "attn_logit_softcapping", None) is not None:
        yield f"soft-capped attention (attn_logit_softcapping = {config.attn_logit_softcapping})", other
    for rotary in _rotary_types(config):
        if rotary in TEXT_DEPENDENT_ROTARY:
            yield f"rotary positions of type {rotary!r}, which change with the length of the text", other
    yield from _attention_reasons(config, capacity, other)


def _attention_reasons(config: Any, capacity: int, other: str) -> Iterator[tuple[str, str]]:
    layer_types = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    unknown = sorted(set(layer_types or ()) - {"full_attention", "sliding_attention"})
    if unknown:
        yield f"layers of type {unknown[0]!r}", other
    slides = "sliding_attention" in layer_types if layer_types else getattr(config, "use_sliding_window", True)
    if slides and window is not None and window < capacity:
        yield (
            f"a sliding window of {window} tokens, shorter than the capacity of {capacity}",
            f"Use `--capacity {window}` or less: up to there the window never bites.",
        )


def _rotary_types(config: Any) -> list[str]:
    """Types of rotary scaling, whether the configuration has one for all layers or one per type of layer."""
    parameters = getattr(config, "rope_parameters", None) or {}
    groups = [group for group in (parameters, *parameters.values()) if isinstance(group, Mapping)]
    return [str(group["rope_type"]) for group in groups if "rope_type" in group]
