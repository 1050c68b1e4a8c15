"""What engines share: the cache of a model, the inputs of a call as they are bound, and memory for what it returns."""

# B rows, T tokens fed, M wanted columns, V vocabulary, W width of hidden states, F and H those of a head's inputs.
from __future__ import annotations

import torch

from spectr_runtime.bundle import ModelSpec
from spectr_runtime.contract import CALL_INPUTS, DTYPES, HEAD_INPUTS, STATES, Call, KVCache, Output


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
    tensors = [
        call.input_ids_BT,
        call.position_ids_BT,
        call.attention_mask_B1TL,
        call.write_index_B,
        call.logit_index_BM,
    ]
    names = [*CALL_INPUTS]
    if call.head is not None:
        names += HEAD_INPUTS
        tensors += [call.head.features_BTF, call.head.hidden_BTH, call.head.own_BT]
    return {name: tensor.contiguous() for name, tensor in zip(names, tensors, strict=True)}


class OutputBuffer:
    """Memory for an output of a call, which the next call uses again.

    Args:
        width: Numbers for each token.
        device: Device of the memory.
        dtype: Type of the numbers.
    """

    def __init__(self, width: int, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        self._width = width
        self._buffer = torch.empty(0, device=device, dtype=dtype)

    def view(self, rows: int, tokens: int) -> torch.Tensor:
        """Return memory for numbers [rows, tokens, width], allocating more if it is too small."""
        size = rows * tokens * self._width
        if len(self._buffer) < size:
            self._buffer = torch.empty(size, device=self._buffer.device, dtype=self._buffer.dtype)
        return self._buffer[:size].view(rows, tokens, self._width)


class Outputs:
    """Memory for what the calls of an engine return.

    Args:
        spec: The model's sizes.
        device: Device of the memory.
    """

    def __init__(self, spec: ModelSpec, device: torch.device) -> None:
        self._logits = OutputBuffer(spec.vocabulary, device)
        self._states = OutputBuffer(spec.states, device, DTYPES[spec.dtype]) if spec.states else None

    def of(self, call: Call) -> Output:
        """Return memory for the output of a call, to be written to; it is valid until the next call."""
        states_BTW = None if self._states is None else self._states.view(*call.input_ids_BT.shape)
        return Output(self._logits.view(*call.logit_index_BM.shape), states_BTW)


def named(output: Output) -> dict[str, torch.Tensor]:
    """Return the tensors of an output by the names of the graph's outputs."""
    states = {} if output.states_BTW is None else {STATES: output.states_BTW}
    return {"logits": output.logits_BMV, **states}
