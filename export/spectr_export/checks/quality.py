"""What a model loses by the way it is stored: nats per token on a text, against the checkpoint."""

# T tokens of a window, V vocabulary.
from __future__ import annotations

import heapq
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from spectr_export.storing.precision import Precision
from spectr_runtime.errors import BundleError, UsageError

TOKENS = 512
WINDOW = 256
# The most that may be lost, in nats per token: e to this power is the factor on perplexity.
LIMITS = {"none": 0.02, "int8": 0.05, "int4": 0.3, "fp8": 0.05}


def read_text(path: Path | None) -> str:
    """The text to measure on: a file, or half prose and half code that comes with every Python.

    Raises:
        UsageError: The file cannot be read as text.
    """
    if path is None:
        return inspect.getsource(heapq)
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read as text: {error}.", hint="Give `--text` a file in UTF-8.") from error


def encode_text(text: str, tokenizer: Any) -> list[int]:
    """The first tokens of a text.

    Raises:
        UsageError: It has fewer than two.
    """
    ids: list[int] = tokenizer(text, truncation=True, max_length=TOKENS)["input_ids"]
    if len(ids) < 2:
        raise UsageError("The text to measure on has fewer than two tokens.", hint="Give `--text` a longer file.")
    return ids


def check_quality(
    original: Any, stored: Any, ids: Sequence[int], precision: Precision, name: str
) -> Mapping[str, float]:
    """Compare how well two models predict a text.

    Args:
        original: The checkpoint's causal LM, in eval mode.
        stored: The same with the weights that the bundle holds.
        ids: The text's tokens.
        precision: How the bundle holds them.
        name: What to call the model in an error.

    Returns:
        Nats per token of the ``original`` and what is ``lost``.

    Raises:
        BundleError: More is lost than this precision may lose.
    """
    expected, found = nats_per_token(original, ids), nats_per_token(stored, ids)
    lost, limit = found - expected, LIMITS[precision.quantisation]
    if not lost <= limit:
        raise BundleError(
            f"The {name} in {precision} loses {lost:.3f} nats per token on the text; allowed are {limit:g}.",
            hint="Store it more precisely, or give `--text` a file of the kind of text that it is made for.",
        )
    return {"original": expected, "lost": lost}


@torch.inference_mode()
def nats_per_token(model: Any, ids: Sequence[int]) -> float:
    """Mean cross entropy of a text's tokens after the first of each window of ``WINDOW``."""
    losses = []
    for start in range(0, len(ids) - 1, WINDOW):
        window_T = torch.tensor(ids[start : start + WINDOW])
        logits_TV = model(input_ids=window_T[None]).logits[0, :-1].float()
        losses.append(nn.functional.cross_entropy(logits_TV, window_T[1:], reduction="none"))
    return float(torch.cat(losses).mean())
