"""The original model as a function from a text to its logits, with which the logits of an engine are compared."""

# B texts or branches, T tokens, V vocabulary.
from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch

# The token ids of a text.
Tokens = tuple[int, ...]


class Reference:
    """Gives the logits of the original model after the texts that it has read.

    Every pass of the model reads all of its weights, which for a large or quantised model costs more than computing
    with them. So the texts are read in few passes: all beginnings in one, then the rest of each text behind the cache
    of its beginning, then all branches of a text behind the cache of the text. The model's own cache takes part in all
    passes but the first. A pass is a plain batch without padding in front and without an attention mask; branches that
    are shorter than others are filled up at their end, where no token of a branch sees it.

    Args:
        model: A causal LM with its own attention and cache.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._known: dict[Tokens, torch.Tensor] = {}

    def read(self, texts: Sequence[Tokens], branches: Sequence[Sequence[Tokens]]) -> None:
        """Read texts and what may follow each of them; texts that were read before are not read again.

        Args:
            texts: Texts of at least two tokens.
            branches: For each text, texts that begin with it and are longer.
        """
        if {*texts, *(branch for several in branches for branch in several)} <= self._known.keys():
            return
        half = min(map(len, texts)) // 2
        begun = self._pass([text[:half] for text in texts], 0, None)
        for row, (text, longer) in enumerate(zip(texts, branches, strict=True)):
            cache = self._pass([text], half, _rows(begun, [row]))
            self._pass(longer, len(text), _rows(cache, [0] * len(longer)))

    def logits(self, text: Tokens) -> torch.Tensor:
        """Return the float32 logits [V] after a text that was read, or after the beginning of one."""
        return self._known[text]

    def _pass(self, texts: Sequence[Tokens], start: int, cache: Any) -> Any:
        """Read texts from a position on, remember the logits after each token, and return the cache at the end."""
        longest = max(map(len, texts))
        ids_BT = torch.tensor([text[start:] + (0,) * (longest - len(text)) for text in texts])
        output = self._model(input_ids=ids_BT, past_key_values=cache, use_cache=True)
        for text, logits_TV in zip(texts, output.logits.float(), strict=True):
            for length in range(start + 1, len(text) + 1):
                if text[:length] not in self._known:
                    # A view would keep the logits of the whole pass in memory.
                    self._known[text[:length]] = logits_TV[length - start - 1].clone()
        return output.past_key_values


def _rows(cache: Any, rows: Sequence[int]) -> Any:
    """Return a copy of some rows of a cache, one of them maybe several times."""
    chosen = copy.deepcopy(cache)
    chosen.batch_select_indices(torch.tensor(rows))
    return chosen
