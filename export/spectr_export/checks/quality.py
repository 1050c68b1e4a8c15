"""Measures what a model loses by its precision: nats per token on a text, against the checkpoint."""

# B windows of one length, T tokens of a window, V vocabulary.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from spectr_export.storing.precision import Precision
from spectr_export.text import batches
from spectr_runtime.errors import BundleError

# The most that each quantisation may lose, in nats per token; perplexity grows by the factor of e to this power.
LIMITS = {"none": 0.02, "int8": 0.05, "int4": 0.3, "fp8": 0.05}


def check_quality(
    original: Any, stored: Any, ids: Sequence[int], precision: Precision, name: str
) -> Mapping[str, float]:
    """Check how much worse the stored model predicts a text than the original.

    Args:
        original: The checkpoint's causal LM, in eval mode.
        stored: The same model with the weights that the bundle holds.
        ids: The text's tokens.
        precision: The precision in which the bundle holds the weights.
        name: What to call the model in an error.

    Returns:
        Nats per token of the original as ``original``, and the difference of the stored model to it as ``lost``.

    Raises:
        BundleError: The loss is above the limit of this precision.
    """
    expected, found = nats_per_token(original, ids), nats_per_token(stored, ids)
    lost, limit = found - expected, LIMITS["none" if precision.keeps else precision.quantisation]
    if not lost <= limit:  # which holds for NaN as well
        raise BundleError(
            f"The {name} in {precision} loses {lost:.3f} nats per token on the text; allowed are {limit:g}.",
            hint="Store it more precisely, or give `--text` a file of the kind of text that it is made for.",
        )
    return {"original": expected, "lost": lost}


@torch.inference_mode()
def nats_per_token(model: Any, ids: Sequence[int]) -> float:
    """Return the mean cross entropy of a text's tokens; the first token of each window is not counted."""
    losses = []
    for batch in batches(ids):
        windows_BT = torch.tensor(batch)
        logits_BTV = model(input_ids=windows_BT).logits[:, :-1]
        for logits_TV, window_T in zip(logits_BTV, windows_BT, strict=True):
            losses.append(nn.functional.cross_entropy(logits_TV.float(), window_T[1:], reduction="none"))
    return float(torch.cat(losses).mean())
