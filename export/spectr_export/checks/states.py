"""Models and engines that give out hidden states beside their logits, as the comparison of logits reads them.

The states of a token follow its logits as if they were further logits. A head is fed states that depend on the token
alone, so that a text says all that a head reads.
"""

# B rows, T tokens fed, L tokens in the cache and fed, K kinds of states, V logits, W width of the states, F width of a
# target's features, H width of a head's state.
from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import torch

from spectr_export.checks.tolerance import Criterion
from spectr_runtime.adapter.eagle3 import Eagle3Head
from spectr_runtime.adapter.model import entering
from spectr_runtime.bundle import Features, Head, ModelSpec
from spectr_runtime.contract import DTYPES, Call, Engine, HeadInputs, KVCache

KINDS = 61  # how many different states a head is fed


class WholeEngine:
    """An engine whose logits are followed by the states; calls must want the logits of all tokens.

    Args:
        engine: The engine; a head is fed the states of ``made_up``.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @property
    def spec(self) -> ModelSpec:
        """The model's sizes, its states not counted among its logits."""
        return self._engine.spec

    @property
    def cache(self) -> KVCache:
        """The cache of the engine."""
        return self._engine.cache

    @property
    def capturable(self) -> bool:
        """Whether calls of the engine can be recorded as CUDA graphs."""
        return self._engine.capturable

    def forward(self, call: Call) -> torch.Tensor:
        """Return logits and states [B, T, V + W] in float32."""
        return torch.cat([part.float() for part in self.run(call) if part is not None], -1)

    def run(self, call: Call) -> Any:
        """Contract of ``Engine.run``."""
        head = self.spec.head
        if head is not None:
            features_BTF, hidden_BTH, own_BT = made_up(call.input_ids_BT, head)
            dtype = DTYPES[self.spec.dtype]
            call = dataclasses.replace(call, head=HeadInputs(features_BTF.to(dtype), hidden_BTH.to(dtype), own_BT))
        return self._engine.run(call)


def made_up(ids_BT: torch.Tensor, head: Head) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return states to feed with tokens: features [B, T, F], the head's own [B, T, H], and which are used [B, T]."""
    generator, kinds_BT = torch.Generator().manual_seed(0), ids_BT % KINDS
    features_KF = torch.randn((KINDS, head.features), generator=generator)
    hidden_KH = torch.randn((KINDS, head.hidden), generator=generator)
    return features_KF[kinds_BT], hidden_KH[kinds_BT], kinds_BT % 2 == 1


class WholeModel:
    """transformers' causal LM whose logits are followed by the features that its layers give out.

    Args:
        model: The causal LM.
        features: What is given out.
    """

    def __init__(self, model: Any, features: Features) -> None:
        self._model = model
        self._layers = features.layers

    def __call__(self, **inputs: Any) -> Any:
        """Return what the model returns, its logits [B, T, V + W]."""
        with entering(self._model, self._layers) as states:
            output = self._model(**inputs)
        output.logits = torch.cat([output.logits, *(states[layer] for layer in self._layers)], -1)
        return output


class WholeHead:
    """A head with transformers' own attention and cache, whose logits are followed by its states.

    Args:
        head: The head, in float32, with that attention.
        sizes: What it is fed.
    """

    def __init__(self, head: Eagle3Head, sizes: Head) -> None:
        self._head, self._sizes = head, sizes

    def __call__(self, *, input_ids: torch.Tensor, past_key_values: Any, use_cache: bool) -> Any:
        """Return logits and states [B, T, V + W] and the cache, with the arguments of a causal LM."""
        from transformers import DynamicCache

        del use_cache
        cache = DynamicCache() if past_key_values is None else past_key_values
        features_BTF, hidden_BTH, own_BT = made_up(input_ids, self._sizes)
        before_BTH = torch.where(own_BT[..., None], hidden_BTH, self._head.read(features_BTF))
        start, tokens = cache.get_seq_length(), input_ids.shape[1]
        hidden_TL = torch.ones((tokens, start + tokens), dtype=torch.bool).triu(start + 1)
        mask_11TL = torch.zeros(hidden_TL.shape).masked_fill(hidden_TL, -torch.inf)[None, None]
        positions_BT = torch.arange(start, start + tokens).expand_as(input_ids)
        logits_BTV, states_BTH = self._head.score(
            input_ids, before_BTH, positions_BT, attention_mask=mask_11TL, past_key_values=cache
        )
        return SimpleNamespace(logits=torch.cat([logits_BTV, states_BTH], -1), past_key_values=cache)


def apart(logits: Criterion, states: Criterion, width: int) -> Criterion:
    """Return a criterion of logits and, behind ``width`` of them, states, each with its own.

    Args:
        logits: The criterion of the logits.
        states: The criterion of the states.
        width: The number of logits.
    """

    def differ(found_W: torch.Tensor, expected_W: torch.Tensor) -> tuple[float, bool, str]:
        first = logits(found_W[:width], expected_W[:width])
        second = states(found_W[width:], expected_W[width:])
        return first if not first[1] or second[1] else second

    return differ
