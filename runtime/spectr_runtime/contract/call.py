"""The names of a call's inputs and outputs, and its check at an engine's boundary."""

# B rows, T tokens fed, L attention length, M wanted columns.
from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch

from spectr_runtime.contract.cache import KVCache
from spectr_runtime.errors import EngineError

OPSET = 24
CALL_INPUTS = ("input_ids", "position_ids", "attention_mask", "write_index", "logit_index")
DTYPES: Mapping[str, torch.dtype] = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


@dataclasses.dataclass(frozen=True, slots=True)
class Call:
    """The inputs of one pass over rows ``first_row .. first_row + B - 1`` of the cache.

    Attributes:
        input_ids_BT: Tokens fed; int64.
        position_ids_BT: Their positions in the text, which are not their slots; int64.
        attention_mask_B1TL: True where a fed token sees a cache slot; slots L and beyond are not looked at. In slot
            order, the slots that a token sees hold the text that ends in it, one slot per position: windows and linear
            biases count on it.
        write_index_B: First slot that each row writes; slots ``write_index .. write_index + T - 1`` are written; int64.
        logit_index_BM: Columns of T whose logits are wanted; int64.
        first_row: First cache row of the call.
    """

    input_ids_BT: torch.Tensor
    position_ids_BT: torch.Tensor
    attention_mask_B1TL: torch.Tensor
    write_index_B: torch.Tensor
    logit_index_BM: torch.Tensor
    first_row: int = 0


def past_names(layers: int) -> list[str]:
    """Names of the cache inputs in order: keys, then values, layer by layer."""
    return [f"past_key_values.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def present_names(layers: int) -> list[str]:
    """Names of the cache outputs in the order of ``past_names``."""
    return [f"present.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]


def check_call(call: Call, cache: KVCache) -> None:
    """Check a call at the engine's boundary: its shapes and types agree and what it writes and reads is in the cache.

    Args:
        call: The call.
        cache: The cache of the engine that is to run it.

    Raises:
        EngineError: Something does not fit; nothing has been written.
    """
    rows, tokens = call.input_ids_BT.shape
    length, wanted = call.attention_mask_B1TL.shape[-1], call.logit_index_BM.shape[-1]
    expected = (
        ("position_ids", call.position_ids_BT, (rows, tokens), torch.int64),
        ("attention_mask", call.attention_mask_B1TL, (rows, 1, tokens, length), torch.bool),
        ("write_index", call.write_index_B, (rows,), torch.int64),
        ("logit_index", call.logit_index_BM, (rows, wanted), torch.int64),
        ("input_ids", call.input_ids_BT, (rows, tokens), torch.int64),
    )
    for name, tensor, shape, dtype in expected:
        if tensor.shape != shape or tensor.dtype != dtype:
            raise EngineError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}; this call needs {shape} {dtype}.")
    if min(rows, tokens, length, wanted) < 1 or call.first_row < 0 or call.first_row + rows > cache.rows:
        last = call.first_row + rows - 1
        raise EngineError(
            f"The call feeds {tokens} tokens to rows {call.first_row}..{last}; the cache has {cache.rows} rows."
        )
    first, last = (int(bound) for bound in torch.aminmax(call.write_index_B))
    if first < 0 or last + tokens > cache.capacity or length > cache.capacity:
        raise EngineError(
            f"The call writes slots {first}..{last + tokens - 1} and reads the first {length}; "
            f"a row has {cache.capacity}.",
            hint="Feed fewer tokens, or open the engine with a larger capacity.",
        )
