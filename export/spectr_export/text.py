"""The text on which a build measures the loss by a precision and, for fp8, the inputs of the linear layers."""

from __future__ import annotations

import heapq
import inspect
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spectr_runtime.errors import UsageError

TOKENS = 512
# A model reads the text in windows of this many tokens, each without the tokens before it.
WINDOW = 256


def read_text(path: Path | None) -> str:
    """Return the text of a file; if none is named, the source of ``heapq``, which is half prose and half code.

    Raises:
        UsageError: The file cannot be read as text.
    """
    if path is None:
        return inspect.getsource(heapq)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}.", hint="Give `--text` a file in UTF-8.") from error


def encode_text(text: str, tokenizer: Any, vocabulary: int) -> list[int]:
    """Return the first ``TOKENS`` tokens of a text, without those that a model cannot score.

    Args:
        text: The text.
        tokenizer: The tokenizer of target and draft.
        vocabulary: Width of the logits of the narrower model.

    Raises:
        UsageError: The text has fewer than two tokens.
    """
    read = tokenizer(text, truncation=True, max_length=TOKENS)["input_ids"]
    ids = [token for token in read if token < vocabulary]
    if len(ids) < 2:
        raise UsageError("The text to measure on has fewer than two tokens.", hint="Give `--text` a longer file.")
    return ids


def batches(ids: Sequence[int]) -> Iterator[list[Sequence[int]]]:
    """Yield the windows of a text, each of at least two tokens; those of one length come together."""
    windows = (ids[start : start + WINDOW] for start in range(0, len(ids) - 1, WINDOW))
    for _, alike in itertools.groupby(windows, key=len):
        yield list(alike)
