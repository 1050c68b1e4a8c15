"""The contract's attention for architectures whose attention is written into their layers.

In transformers, most models look their attention up in ``AttentionInterface``, where another one can be registered.
Bloom and Falcon do not. Here the ``forward`` of their attention modules is replaced by one that calls the contract's.
"""

# B rows, T tokens fed, L attention length, H query heads, D head size, E hidden size, F queries, keys and values
# together, G groups of X heads that share a key and a value.
from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from typing import Any

import torch

from spectr_runtime.adapter.attention import attend, operator
from spectr_runtime.adapter.position import linear_biases


def adapt_bloom(model: Any) -> None:
    """Give every layer of a Bloom model the contract's attention, and a mask with its linear biases."""
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    # A bias is slope times position, so the biases at position 1 are the slopes.
    slopes_H = build_alibi_tensor(torch.ones(1, 2), model.config.n_head, torch.float32)[:, 0, 1]
    decoder = model.transformer
    decoder.register_buffer("slopes_H", slopes_H.contiguous(), persistent=False)  # it moves with the model

    def biased_mask(mask_B1TL: torch.Tensor, _heads: int, dtype: torch.dtype) -> torch.Tensor:
        return linear_biases(mask_B1TL, decoder.slopes_H, dtype)

    decoder.build_alibi_tensor = biased_mask
    for block in decoder.h:
        block.self_attention.forward = types.MethodType(_bloom_attention, block.self_attention)


def adapt_falcon(model: Any) -> None:
    """Give every layer of a Falcon model with rotary positions the contract's attention."""
    for block in model.transformer.h:
        block.self_attention.forward = types.MethodType(_falcon_attention, block.self_attention)


ADAPTERS: Mapping[str, Callable[[Any], None]] = {"bloom": adapt_bloom, "falcon": adapt_falcon}


def _bloom_attention(
    module: Any, hidden_BTE: torch.Tensor, residual_BTE: torch.Tensor, *, alibi: torch.Tensor, layer_past: Any, **_: Any
) -> tuple[torch.Tensor, None]:
    """Replace ``BloomAttention.forward``; ``alibi`` is the additive mask [B, H, T, L] of ``adapt_bloom``."""
    query_BHTD, key_BHTD, value_BHTD = module._reshape(module.query_key_value(hidden_BTE))
    key_BHLD, value_BHLD = layer_past.update(key_BHTD, value_BHTD, module.layer_idx)
    output_BHTD = operator(query_BHTD, key_BHLD, value_BHLD, alibi, module.inv_norm_factor)
    return residual_BTE + module.dense(output_BHTD.transpose(1, 2).flatten(2)), None


def split_heads(module: Any, fused_BTF: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return queries, keys and values [B, T, H, D] as ``FalconAttention._split_heads`` does.

    That indexes with lists, which are copied to a GPU in every call.
    """
    new = module.new_decoder_architecture
    groups = module.num_kv_heads if new or module.multi_query else module.num_heads
    all_BTGXD = fused_BTF.view(*fused_BTF.shape[:2], groups, -1, module.head_dim)
    query_BTGXD, key_BTG1D, value_BTG1D = all_BTGXD[..., :-2, :], all_BTGXD[..., -2:-1, :], all_BTGXD[..., -1:, :]
    if new:  # every query head has a key and a value of its own in the cache
        key_BTG1D, value_BTG1D = key_BTG1D.expand_as(query_BTGXD), value_BTG1D.expand_as(query_BTGXD)
    return query_BTGXD.flatten(2, 3), key_BTG1D.flatten(2, 3), value_BTG1D.flatten(2, 3)


def _falcon_attention(
    module: Any,
    hidden_BTE: torch.Tensor,
    *,
    attention_mask: torch.Tensor,
    layer_past: Any,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Replace ``FalconAttention.forward``."""
    from transformers.models.falcon.modeling_falcon import apply_rotary_pos_emb

    heads_BTHD = split_heads(module, module.query_key_value(hidden_BTE))
    query_BHTD, key_BHTD, value_BHTD = (part.transpose(1, 2) for part in heads_BTHD)
    query_BHTD, key_BHTD = apply_rotary_pos_emb(query_BHTD, key_BHTD, *position_embeddings)  # type: ignore[no-untyped-call]
    key_BHLD, value_BHLD = layer_past.update(key_BHTD, value_BHTD, module.layer_idx)
    output_BTHD, _weights = attend(module, query_BHTD, key_BHLD, value_BHLD, attention_mask)
    return module.dense(output_BTHD.flatten(2)), None
