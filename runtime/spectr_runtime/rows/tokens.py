"""The check that token ids lie within the vocabulary which draft and target share."""

from __future__ import annotations

from collections.abc import Iterable

from spectr_runtime.errors import RequestError


def outside(tokens: Iterable[int], vocabulary: int) -> list[int]:
    """Return the token ids that are not in a vocabulary of this size."""
    return [token for token in tokens if not 0 <= token < vocabulary]


def check_tokens(param: str, tokens: Iterable[int], vocabulary: int) -> None:
    """Check that every token id is in a vocabulary.

    Args:
        param: The field of the record that holds the ids.
        tokens: The ids.
        vocabulary: Size of the vocabulary.

    Raises:
        RequestError: An id is outside; the message names the first one.
    """
    if found := outside(tokens, vocabulary):
        raise RequestError(
            f"Token id {found[0]} is outside the vocabulary; ids run from 0 to {vocabulary - 1}.", param=param
        )
