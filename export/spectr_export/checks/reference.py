"""The original model as a function of a text: what an engine's logits are compared with."""

# V vocabulary.
from __future__ import annotations

import copy
from typing import Any

import torch

Tokens = tuple[int, ...]


class Reference:
    """The original model's logits behind a text.

    A text is read in two pieces, so that the model's own cache takes part. One that continues another is read from
    where that ended.

    Args:
        model: A causal LM with its own attention and cache.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known: dict[Tokens, torch.Tensor] = {}
        self._caches: dict[Tokens, Any] = {}

    def logits(self, text: Tokens) -> torch.Tensor:
        """Float32 logits [V] after a text; every beginning of the text is remembered with it."""
        if text not in self._known:
            begun = max((known for known in self._caches if text[: len(known)] == known), key=len, default=())
            if begun:
                self._read(text, len(begun), copy.deepcopy(self._caches[begun]))
            else:
                half = len(text) // 2
                self._caches[text] = self._read(text, half, self._read(text[:half], 0, None) if half else None)
        return self._known[text]

    def _read(self, text: Tokens, start: int, cache: Any) -> Any:
        """Read a text from a place on and remember its logits; returns the cache behind it."""
        output = self._model(input_ids=torch.tensor([text[start:]]), past_key_values=cache, use_cache=True)
        for length, logits_V in enumerate(output.logits[0].float(), start=start + 1):
            if text[:length] not in self._known:
                # A view would keep the logits of the whole piece alive.
                self._known[text[:length]] = logits_V.clone()
        return output.past_key_values
