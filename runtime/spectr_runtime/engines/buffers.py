"""The memory that engines bind by address: the cache, the inputs of a call, and the logits."""

# B rows, M wanted columns, V vocabulary.
from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from spectr_runtime.bundle import ModelSpec
from spectr_runtime.contract import CALL_INPUTS, DTYPES, Call, KVCache
from spectr_runtime.errors import EngineError, first_line


def allocate_cache(
    spec: ModelSpec, rows: int, capacity: int, device: torch.device, slots: int | None = None
) -> KVCache:
    """Allocate the cache of a model.

    Args:
        spec: The model's sizes.
        rows: Number of rows of the batch.
        capacity: Number of slots of a row.
        device: Device of the cache.
        slots: How many slots a row has at first; None for all.

    Raises:
        EngineError: There is no memory for the cache, or no such device.
    """
    sizes = (spec.layers, rows, spec.kv_heads, capacity, spec.head_size)
    with memory_for(f"a cache of {rows} rows of {capacity} slots"):
        return KVCache(*sizes, dtype=DTYPES[spec.dtype], device=device, slots=slots)


def allocate_blocks(spec: ModelSpec, blocks: int, slots: int, device: torch.device) -> torch.Tensor:
    """Allocate keys and values of blocks of slots [2 * layers, blocks, Hk, slots, head_size], without any values.

    On a CPU, the system hands the memory of a block out when it is first written.

    Raises:
        EngineError: There is no memory for them, or no such device.
    """
    sizes = (2 * spec.layers, blocks, spec.kv_heads, slots, spec.head_size)
    with memory_for(f"prefixes of {blocks * slots} tokens"):
        return torch.empty(sizes, dtype=DTYPES[spec.dtype], device=device)


@contextlib.contextmanager
def memory_for(what: str) -> Iterator[None]:
    """Turn PyTorch's errors of an allocation into an ``EngineError``."""
    try:
        yield
    except (RuntimeError, AssertionError) as error:
        raise EngineError(
            f"There is no memory for {what}: {first_line(error)}",
            hint="Use a smaller batch size, or build the bundle with a smaller --capacity.",
        ) from error


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
