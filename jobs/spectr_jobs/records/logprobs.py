"""Log-probabilities as rows show them: the chat API's entries, and the columns of the completions API."""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Sequence
from typing import Any

from spectr_runtime.rows.request import TokenLogprob

LEAST = -9999.0  # the API's stand-in for the logarithm of nothing, which JSON does not have


def entries(tokens: Sequence[TokenLogprob]) -> list[dict[str, Any]]:
    """One object per token, with the most probable tokens at its place."""
    return [_entry(token) | {"top_logprobs": [_entry(one) for one in token.top]} for token in tokens]


def _entry(token: TokenLogprob) -> dict[str, Any]:
    return {"token": token.text, "bytes": list(token.data), "logprob": _finite(token.logprob)}


def columns(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """One list per property. Of tokens that look alike, parts of a character for instance, the most probable counts.

    An offset tells how many whole characters were written before its token.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    pieces = [len(decoder.decode(token.data)) for token in tokens]
    return {
        "tokens": [token.text for token in tokens],
        "token_logprobs": [_finite(token.logprob) for token in tokens],
        "top_logprobs": [_by_text(token) for token in tokens],
        "text_offset": [0, *itertools.accumulate(pieces)][: len(tokens)],
    }


def _by_text(token: TokenLogprob) -> dict[str, float]:
    """The most probable tokens in descending order, and the written one if it is not among them."""
    found: dict[str, float] = {}
    for one in (*token.top, token):
        found.setdefault(one.text, _finite(one.logprob))
    return found


def _finite(value: float) -> float:
    return max(value, LEAST)
