"""The original model as a function from a text to its logits, with which the logits of an engine are compared."""

# V vocabulary.
from __future__ import annotations

import copy
from typing import Any

import torch

# The token ids of a text.
Tokens = tuple[int, ...]


class Reference:
    """Gives the logits of the original model after a text.

    A text is read in two pieces, so that the model's own cache takes part in the comparison. A text that continues
    another one is read from the end of that one on.

    Args:
        model: A causal LM with its own attention and cache.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known: dict[Tokens, torch.Tensor] = {}
        self._caches: dict[Tokens, Any] = {}

    def logits(self, text: Tokens) -> torch.Tensor:
        """Return the float32 logits [V] after a text; the logits after every prefix of it are remembered as well."""
        if text not in self._known:
            prefix = max((known for known in self._caches if text[: len(known)] == known), key=len, default=())
            if prefix:
                self._read(text, len(prefix), copy.deepcopy(self._caches[prefix]))
            else:
                half = len(text) // 2
                self._caches[text] = self._read(text, half, self._read(text[:half], 0, None) if half else None)
        return self._known[text]

    def _read(self, text: Tokens, start: int, cache: Any) -> Any:
        """Read a text from a position on, remember the logits after each token, and return the cache at its end."""
        output = self._model(input_ids=torch.tensor([text[start:]]), past_key_values=cache, use_cache=True)
        for length, logits_V in enumerate(output.logits[0].float(), start=start + 1):
            if text[:length] not in self._known:
                # A view would keep the logits of the whole piece in memory.
                self._known[text[:length]] = logits_V.clone()
        return output.past_key_values
