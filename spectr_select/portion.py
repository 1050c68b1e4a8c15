"""Rows a few at a time, so that what is made of their laws stays near the processor."""

from __future__ import annotations

from itertools import pairwise

import torch

# On a CPU a float64 buffer of a portion takes about so much. Much larger ones leave the cache, and the allocator gives
# their pages back to the system after every operation and takes them anew before the next.
PORTION_BYTES = 2 * 2**20


def portions(rows: int, weights: int, device: torch.device) -> list[slice]:
    """Rows to work on together.

    Args:
        rows: Number of rows.
        weights: Weights of a row that are worked on at a time.
        device: Where they are. An accelerator takes all rows at once: it is the faster the more work it is given.

    Returns:
        Slices that cover the rows in their order; one of nothing where there are no rows.
    """
    most = rows if device.type != "cpu" else PORTION_BYTES // (8 * max(weights, 1))
    count = max(-(-rows // max(most, 1)), 1)
    # All of about one size, instead of a rest that pays for its operations as if it were full.
    bounds = [rows * place // count for place in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
