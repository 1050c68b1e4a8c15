"""The protocol of an engine: one call that writes keys and values to the cache and returns logits.

The same call serves prefill, the levels of a draft tree and its verification. The backends that implement the protocol
are in ``spectr_runtime.engines``; the decoder knows only this protocol.
"""

# B rows of the call, T tokens fed, M columns whose logits are wanted, V vocabulary, W width of the hidden states.
from __future__ import annotations

from typing import NamedTuple, Protocol

import torch

from spectr_runtime.bundle import ModelSpec
from spectr_runtime.contract.cache import KVCache
from spectr_runtime.contract.call import Call


class Output(NamedTuple):
    """What a call returns; the next call may overwrite both.

    Attributes:
        logits_BMV: Float32 logits of the wanted columns.
        states_BTW: Hidden states of all fed tokens, in the model's type: of a target whose draft is a head the features
            that this head reads, of a head its own state, which it is fed for the next token of a draft. None of a
            model whose ``spec.states`` is 0.
    """

    logits_BMV: torch.Tensor
    states_BTW: torch.Tensor | None


class Engine(Protocol):
    """A model with its cache, ready to be called."""

    @property
    def spec(self) -> ModelSpec:
        """The model's sizes."""

    @property
    def cache(self) -> KVCache:
        """The keys and values of every row, which ``forward`` updates in place."""

    @property
    def capturable(self) -> bool:
        """Whether a call whose shapes were run once before can be recorded as a CUDA graph."""

    def forward(self, call: Call) -> torch.Tensor:
        """Write the fed tokens' keys and values and return float32 logits [B, M, V].

        The next call may overwrite the returned tensor.
        """

    def run(self, call: Call) -> Output:
        """Do what ``forward`` does, and return the hidden states of the fed tokens too where the model has some."""
