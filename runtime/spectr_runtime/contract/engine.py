"""The protocol of an engine: one call that writes keys and values to the cache and returns logits.

The same call serves prefill, the levels of a draft tree and its verification. The backends that implement the protocol
are in ``spectr_runtime.engines``; the decoder knows only this protocol.
"""

# B rows of the call, M columns whose logits are wanted, V vocabulary.
from __future__ import annotations

from typing import Protocol

import torch

from spectr_runtime.bundle import ModelSpec
from spectr_runtime.contract.cache import KVCache
from spectr_runtime.contract.call import Call


class Engine(Protocol):
    """A model with its cache, ready to be called."""

    @property
    def spec(self) -> ModelSpec:
        """The model's sizes."""

    @property
    def cache(self) -> KVCache:
        """The keys and values of every row, which ``forward`` updates in place."""

    def forward(self, call: Call) -> torch.Tensor:
        """Write the fed tokens' keys and values and return float32 logits [B, M, V].

        The next call may overwrite the returned tensor.
        """
