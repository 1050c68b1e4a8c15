"""Log-probabilities in the forms of the two APIs: an entry per token (chat), a column per property (completions)."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Sequence
from typing import Any

from spectr_runtime.rows.request import TokenLogprob

LEAST = -9999.0  # stands for the logarithm of 0 in the API, since JSON has no infinity


def entries(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """Return one object per token, in the form of the chat API, with the most probable tokens at the same position.

    The first token of an echoed prompt has no log-probability: null.
    """
    return [_entry(token) | {"top_logprobs": [_entry(one) for one in token.top]} for token in tokens]


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "bytes": list(token.data), "logprob": _finite(token.logprob)}


def columns(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """Return one list per property of the tokens, in the form of the completions API.

    ``top_logprobs`` has tokens as keys, by their texts. If several tokens have the same text, for instance because they
    are parts of a character, the most probable one is kept. ``text_offset`` is the number of characters that were
    certain before each token, from the prompt on if it is echoed; bytes that are no character count as they are shown.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    pieces = [len(decoder.decode(token.data)) for token in tokens]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [_by_text(token) for token in tokens],
        "text_offset": [0, *itertools.accumulate(pieces)][: len(tokens)],
    }


def _by_text(token: TokenLogprob) -> dict[str, float | None] | None:
    """Return the most probable tokens in descending order, followed by the token itself if it is not among them.

    The first token of a prompt has no probability, since nothing stands before it; it gives None.
    """
    if _finite(token.logprob) is None:
        return None
    found: dict[str, float | None] = {}
    for one in (*token.top, token):
        found.setdefault(one.text, _finite(one.logprob))
    return found


def _finite(value: float | None) -> float | None:
    return None if value is None else max(value, LEAST)
