"""The differences that are allowed between the logits of an engine and those of the original model."""

# V vocabulary.
from __future__ import annotations

from collections.abc import Callable

import torch

ABSOLUTE = 1e-4
RELATIVE = 1e-3
# For a graph in half precision that is run in float32: its constants, such as a scale of the embeddings, stay rounded.
WIDE_ABSOLUTE = 0.03
WIDE_RELATIVE = 1e-2
# The largest allowed distance between the best logit in float32 and that of the token that is best in half precision.
HALF = 0.25
# For a graph that rounds its inputs: root mean square of the logits' differences, divided by the logits' spread. In fp8
# that goes for every text, in int8 for the middle one of all texts.
ROUNDED = 0.25
ROUNDED_BY_ROWS = 0.5

# A function of an engine's logits [V] and the model's. It returns how far they differ, whether that is allowed, and
# words for the limit.
Criterion = Callable[[torch.Tensor, torch.Tensor], tuple[float, bool, str]]


def within(absolute: float, relative: float) -> Criterion:
    """Return a criterion of the largest difference; each logit may differ by ``absolute + relative * |logit|``.

    Where the logits spread over more than one unit, ``absolute`` is times their standard deviation: a logit near zero
    is the sum of numbers of that size, and is rounded as they are.
    """

    def differ(logits_V: torch.Tensor, expected_V: torch.Tensor) -> tuple[float, bool, str]:
        difference_V, allowed = (logits_V - expected_V).abs(), absolute * max(float(expected_V.std()), 1.0)
        sound = bool((difference_V <= allowed + relative * expected_V.abs()).all())
        return float(difference_V.max()), sound, f"{allowed:.2g} + {relative:g} of the logit"

    return differ


def within_spread(logits_V: torch.Tensor, expected_V: torch.Tensor) -> tuple[float, bool, str]:
    """Compare by the root mean square of the differences, divided by the standard deviation of the expected logits."""
    share = float((logits_V - expected_V).square().mean().sqrt() / expected_V.std())
    return share, share <= ROUNDED, f"{ROUNDED:g} of the logits' spread"


def shortfall(logits_V: torch.Tensor, expected_V: torch.Tensor) -> tuple[float, bool, str]:
    """Compare by the distance of the best expected logit to the expected logit of the token that the engine prefers."""
    missing = float(expected_V.max() - expected_V[logits_V.argmax()])
    return missing, missing <= HALF and bool(logits_V.isfinite().all()), f"{HALF:g} between the tokens preferred"


def finite(logits_V: torch.Tensor, expected_V: torch.Tensor) -> tuple[float, bool, str]:
    """Allow every finite logit."""
    return 0.0, bool(logits_V.isfinite().all()), "finite ones"
