"""The contract's attention: one standard operator, or its parts if a model asks for more than the operator does.

transformers calls ``attend`` in place of a model's own attention.
"""

# B rows, T tokens fed, L attention length, H heads (Hq of queries, Hk of keys), G query heads of a key head,
# D head size.
from __future__ import annotations

from typing import Any

import torch
from torch import nn

from spectr_runtime.adapter.position import HIDDEN, windowed
from spectr_runtime.contract import OPSET
from spectr_runtime.errors import BundleError

ATTENTION = "spectr_contract"


def attend(
    module: nn.Module,
    query_BHTD: torch.Tensor,
    key_BHLD: torch.Tensor,
    value_BHLD: torch.Tensor,
    attention_mask: torch.Tensor,
    scaling: float | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention, with the arguments that transformers passes.

    Args:
        module: The attention module of the layer.
        query_BHTD: Queries [B, Hq, T, D].
        key_BHLD: Keys [B, Hk, L, D].
        value_BHLD: Values [B, Hk, L, D].
        attention_mask: True where a token sees a slot; bool [B, 1, T, L].
        scaling: Factor of the scores; by default one over the square root of D.
        options: Whatever else the model passes to its attention. Three options change the result: ``softcap`` (scores
            are bent to lie between minus and plus this number), ``s_aux`` (attention sinks: a logit per query head
            that takes part in the softmax and has no value) and ``sliding_window`` (how many tokens the layer sees).

    Returns:
        Output [B, T, Hq, D], and None for the weights.

    Raises:
        BundleError: The model asks for something that the contract does not have.
    """
    if options.get("position_bias") is not None:
        raise BundleError(
            "The model gives its attention a position bias, which the engine contract does not have.",
            hint="Use another model.",
        )
    window = layer_window(module, options.get("sliding_window"))
    mask_B1TL = attention_mask if window is None else windowed(attention_mask, window)
    scale = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
    softcap, sinks_H = options.get("softcap"), options.get("s_aux")
    if softcap is None and sinks_H is None:
        output_BHTD = operator(query_BHTD, key_BHLD, value_BHLD, mask_B1TL, scale)
    else:
        output_BHTD = parts(query_BHTD, key_BHLD, value_BHLD, mask_B1TL, scale, softcap=softcap, sinks_H=sinks_H)
    return output_BHTD.transpose(1, 2).contiguous(), None


def layer_window(module: nn.Module, passed: int | None) -> int | None:
    """Return how many tokens each token of a layer sees, itself included.

    The configuration decides, as it does for the masks that transformers itself makes. Not every architecture passes
    its window to its attention as well.

    Args:
        module: The attention module of the layer.
        passed: The window that the architecture passed to its attention, if any.

    Returns:
        The window in tokens; None if a token sees its whole text.

    Raises:
        BundleError: The architecture passed another window than its configuration says.
    """
    config = getattr(module, "config", None)
    window: int | None = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if types is not None:
        slides = types[module.layer_idx] == "sliding_attention"
    else:
        slides = getattr(config, "use_sliding_window", True)
    expected = window if slides else None
    if passed is not None and passed != expected:
        raise BundleError(
            f"A layer of the model sees {passed} tokens where its config.json says {expected or 'all'}.",
            hint="Get the checkpoint again, or use another model.",
        )
    return expected


def operator(
    query_BHTD: torch.Tensor, key_BHLD: torch.Tensor, value_BHLD: torch.Tensor, mask: torch.Tensor, scale: float
) -> torch.Tensor:
    """Compute attention as one operator.

    Args:
        query_BHTD: Queries [B, Hq, T, D].
        key_BHLD: Keys [B, Hk, L, D].
        value_BHLD: Values [B, Hk, L, D].
        mask: Bool [B, 1, T, L], or [B, Hq, T, L] to be added to the scores.
        scale: Factor of the scores.

    Returns:
        Output [B, Hq, T, D].
    """
    if torch.compiler.is_exporting():
        inputs = (query_BHTD, key_BHLD, value_BHLD, mask)
        shape = (*query_BHTD.shape[:-1], value_BHLD.shape[-1])
        return torch.onnx.ops.symbolic(
            "Attention", inputs, {"scale": scale}, dtype=query_BHTD.dtype, shape=shape, version=OPSET
        )
    return nn.functional.scaled_dot_product_attention(
        query_BHTD, key_BHLD, value_BHLD, attn_mask=mask, scale=scale, enable_gqa=True
    )


def parts(
    query_BHTD: torch.Tensor,
    key_BHLD: torch.Tensor,
    value_BHLD: torch.Tensor,
    mask_B1TL: torch.Tensor,
    scale: float,
    *,
    softcap: float | None,
    sinks_H: torch.Tensor | None,
) -> torch.Tensor:
    """Compute attention from simpler operators, with soft caps or sinks; output [B, Hq, T, D].

    The ``Attention`` operator has an attribute for soft caps, but TensorRT does not support it, and none for sinks.

    Args:
        query_BHTD: Queries [B, Hq, T, D].
        key_BHLD: Keys [B, Hk, L, D].
        value_BHLD: Values [B, Hk, L, D].
        mask_B1TL: True where a token sees a slot; bool.
        scale: Factor of the scores.
        softcap: Scores are bent to lie between minus and plus this number; None for no cap.
        sinks_H: A logit per query head that takes part in the softmax and has no value; None for no sinks.
    """
    key_heads = key_BHLD.shape[1]
    grouped_BHGTD = query_BHTD.unflatten(1, (key_heads, -1))  # type: ignore[no-untyped-call]
    scores_BHGTL = grouped_BHGTD @ key_BHLD[:, :, None].transpose(-1, -2) * scale
    if softcap is not None:
        scores_BHGTL = softcap * torch.tanh(scores_BHGTL / softcap)
    scores_BHGTL = scores_BHGTL.masked_fill(~mask_B1TL[:, :, None], HIDDEN)
    if sinks_H is None:
        weights_BHGTL = scores_BHGTL.softmax(-1, dtype=torch.float32)
    else:
        sinks_BHGT1 = sinks_H.view(key_heads, -1, 1, 1).expand(*scores_BHGTL.shape[:-1], 1)
        weights_BHGTL = torch.cat([scores_BHGTL, sinks_BHGT1], -1).softmax(-1, dtype=torch.float32)[..., :-1]
    output_BHGTD: torch.Tensor = weights_BHGTL.to(value_BHLD.dtype) @ value_BHLD[:, :, None]
    return output_BHGTD.flatten(1, 2)
