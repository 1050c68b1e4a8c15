"""What the decoder asks of a model: one call that writes key/value slots and returns logits.

The same call serves prefill, draft steps and tree verification. Backends live in ``spectr_runtime.engines``; the
decoder sees only what is in this file.
"""

# B rows of this call, T tokens fed, L attention length, M positions whose logits are wanted, V vocabulary.
from __future__ import annotations

import dataclasses
from typing import Protocol

import torch

from spectr_runtime.bundle import ModelSpec
from spectr_runtime.contract.cache import KVCache


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
