"""The texts of a build: one on which it measures, and another by whose inputs matrices are rounded to int8 or int4.

On the first, the loss by a precision, the acceptance of the draft and, for fp8, the inputs of the linear layers are
measured. The second is another one, because a model that was rounded by a text loses less on that text than on others.
"""

from __future__ import annotations

import dataclasses
import heapq
import importlib
import inspect
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from spectr_runtime.errors import UsageError

TOKENS = 512
TOKENS_READ = 2048
# The modules of Python whose sources are read for rounding, a quarter of the tokens each.
READ = ("statistics", "argparse", "difflib", "fractions")
# A model reads the text in windows of this many tokens, each without the tokens before it.
WINDOW = 256


def read_text(path: Path) -> str:
    """Return the text of a file.

    Raises:
        UsageError: The file cannot be read as text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}.", hint="Give `--text` a file in UTF-8.") from error


@dataclasses.dataclass(frozen=True, slots=True)
class Texts:
    """The texts of a build, in tokens that both models score.

    Attributes:
        measured: Up to ``TOKENS`` tokens to measure on, at least two.
        read: Tokens to round by, which are no part of the others.
    """

    measured: Sequence[int]
    read: Sequence[int]

    @staticmethod
    def of(text: str | None, tokenizer: Any, vocabulary: int) -> Texts:
        """Encode both texts.

        A user's text gives the tokens to measure on and, behind them, those to round by. Sources of Python's modules
        give what is lacking; to measure on it is that of ``heapq``, which is half prose and half code.

        Args:
            text: The user's text, if there is one.
            tokenizer: The tokenizer of target and draft.
            vocabulary: Width of the logits of the narrower model.

        Raises:
            UsageError: The text has fewer than two tokens.
        """

        def encode(text: str, count: int) -> list[int]:
            read = tokenizer(text, truncation=True, max_length=count)["input_ids"]
            return [token for token in read if token < vocabulary]

        ids = encode(inspect.getsource(heapq), TOKENS) if text is None else encode(text, TOKENS + TOKENS_READ)
        if len(ids) < 2:
            raise UsageError("The text to measure on has fewer than two tokens.", hint="Give `--text` a longer file.")
        sources = [inspect.getsource(importlib.import_module(name)) for name in READ]
        own = [token for source in sources for token in encode(source, TOKENS_READ // len(READ))]
        return Texts(ids[:TOKENS], (ids[TOKENS:] + own)[:TOKENS_READ])


def windows(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Yield the windows of a text, each of at least two tokens."""
    for start in range(0, len(ids) - 1, WINDOW):
        yield ids[start : start + WINDOW]


def batches(ids: Sequence[int]) -> Iterator[list[Sequence[int]]]:
    """Yield the windows of a text; those of one length come together."""
    for _, alike in itertools.groupby(windows(ids), key=len):
        yield list(alike)
