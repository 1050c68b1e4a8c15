"""What engines share: the cache of a model, the inputs of a call as they are bound, and memory for the logits."""

# B rows, M wanted columns, V vocabulary.
from __future__ import annotations

import torch

from spectr_runtime.bundle import ModelSpec
from spectr_runtime.contract import CALL_INPUTS, DTYPES, Call, KVCache


def allocate_cache(spec: ModelSpec, rows: int, capacity: int, device: torch.device, *, grows: bool) -> KVCache:
    """Allocate the cache of a model.

    Args:
        spec: The model's sizes.
        rows: Number of rows of the batch.
        capacity: The most slots of a row.
        device: Device of the cache.
        grows: Whether it grows with the texts.

    Raises:
        EngineError: There is no memory for the cache, or no such device.
    """
    sizes = (spec.layers, rows, spec.kv_heads, capacity, spec.head_size)
    return KVCache(*sizes, dtype=DTYPES[spec.dtype], device=device, grows=grows)


def call_inputs(call: Call) -> dict[str, torch.Tensor]:
    """Return the tensors of a call by the names of the graph's inputs, each contiguous in memory."""
    tensors = (
        call.input_ids_BT,
        call.position_ids_BT,
        call.attention_mask_B1TL,
        call.write_index_B,
        call.logit_index_BM,
    )
    return {name: tensor.contiguous() for name, tensor in zip(CALL_INPUTS, tensors, strict=True)}


class LogitsBuffer:
    """Memory for the logits of a call, which the next call uses again.

    Args:
        vocabulary: Width of the logits.
        device: Device of the memory.
    """

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self._vocabulary = vocabulary
        self._buffer = torch.empty(0, device=device)

    def view(self, rows: int, wanted: int) -> torch.Tensor:
        """Return memory for float32 logits [B, M, V], allocating more if it is too small."""
        size = rows * wanted * self._vocabulary
        if len(self._buffer) < size:
            self._buffer = torch.empty(size, device=self._buffer.device)
        return self._buffer[:size].view(rows, wanted, self._vocabulary)
