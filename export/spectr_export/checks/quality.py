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

# The most that a target may lose by each quantisation, in nats per token; perplexity grows by the factor of e to this
# power.
LIMITS = {"none": 0.02, "int8": 0.05, "int4": 0.3, "int4-asymmetric": 0.3, "fp8": 0.05}


def measure_loss(original: Any, stored: Any, ids: Sequence[int]) -> Mapping[str, float]:
    """Measure how much worse the stored model predicts a text than the original.

    Args:
        original: The checkpoint's causal LM, in eval mode.
        stored: The same model with the weights that the bundle holds.
        ids: The text's tokens.

    Returns:
        Nats per token of the original as ``original``, and the difference of the stored model to it as ``lost``.
    """
    expected = nats_per_token(original, ids)
    return {"original": expected, "lost": nats_per_token(stored, ids) - expected}


def refuse_loss(lost: float, precision: Precision) -> None:
    """Refuse a target that lost too much by its precision. A draft may lose anything: the text stays the target's.

    Args:
        lost: What ``measure_loss`` found.
        precision: The precision in which the bundle holds the weights.

    Raises:
        BundleError: The loss is above the limit of this precision.
    """
    limit = LIMITS["none" if precision.keeps else precision.quantisation]
    if not lost <= limit:  # which holds for NaN as well
        raise BundleError(
            f"The target in {precision} loses {lost:.3f} nats per token on the text; allowed are {limit:g}.",
            hint="Store it more precisely, or give `--text` a file of the kind of text that it is made for.",
        )


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
