"""What the decoder asks of a model: one call that writes key/value slots and returns logits.

The same call serves prefill, draft steps and tree verification. Backends live in ``spectr_runtime.engines``; the
decoder sees only what is in this file.
"""

# B rows of this call, T tokens fed, L attention length, M positions whose logits are wanted, V vocabulary.
from __future__ import annotations

from typing import Protocol

import torch

from spectr_runtime.bundle import ModelSpec
from spectr_runtime.contract.cache import KVCache
from spectr_runtime.contract.call import Call


class Engine(Protocol):
    """A model with its cache."""

    @property
    def spec(self) -> ModelSpec:
        """The model's sizes."""

    @property
    def cache(self) -> KVCache:
        """The key/value slots of every row, updated in place by ``forward``."""

    def forward(self, call: Call) -> torch.Tensor:
        """Write the fed tokens' keys and values and return float32 logits [B, M, V].

        The returned tensor may be overwritten by the next call.
        """
