"""By how much an engine's logits may differ from the original model's."""

# V vocabulary.
from __future__ import annotations

from collections.abc import Callable

import torch

ABSOLUTE = 1e-4
RELATIVE = 1e-3
# Of a graph in half precision that is run in float32: its constants (a scale of the embeddings, say) stay rounded.
WIDE_ABSOLUTE = 0.03
WIDE_RELATIVE = 1e-2
# How far short of the best logit a token may fall that half precision prefers.
HALF = 0.25
# Of a graph that rounds what it multiplies: root mean square of the logits' differences, by their spread.
ROUNDED = 0.25

# From an engine's logits [V] and the model's: how far they differ, whether that is allowed, and what is.
Criterion = Callable[[torch.Tensor, torch.Tensor], tuple[float, bool, str]]


def within(absolute: float, relative: float) -> Criterion:
    """The largest difference of two rows of logits; each may be ``absolute + relative * |logit|``."""

    def differ(logits_V: torch.Tensor, expected_V: torch.Tensor) -> tuple[float, bool, str]:
        difference_V = (logits_V - expected_V).abs()
        sound = bool((difference_V <= absolute + relative * expected_V.abs()).all())
        return float(difference_V.max()), sound, f"{absolute:g} + {relative:g} of the logit"

    return differ


def within_spread(logits_V: torch.Tensor, expected_V: torch.Tensor) -> tuple[float, bool, str]:
    """Root mean square of the difference of two rows of logits, by the standard deviation of the expected ones."""
    share = float((logits_V - expected_V).square().mean().sqrt() / expected_V.std())
    return share, share <= ROUNDED, f"{ROUNDED:g} of the logits' spread"


def shortfall(logits_V: torch.Tensor, expected_V: torch.Tensor) -> tuple[float, bool, str]:
    """How far the token that an engine prefers falls short of the best, and whether half precision may do that."""
    missing = float(expected_V.max() - expected_V[logits_V.argmax()])
    return missing, missing <= HALF and bool(logits_V.isfinite().all()), f"{HALF:g} between the tokens preferred"
