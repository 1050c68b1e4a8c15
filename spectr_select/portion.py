"""Portions of a batch: a few rows at a time, so that intermediate results stay in the processor's cache."""

from __future__ import annotations

from itertools import pairwise

import torch

# The size that a float64 buffer of a portion should have on a CPU. Much larger buffers do not fit into the cache, and
# the allocator returns their pages to the system after every operation and requests them again before the next.
PORTION_BYTES = 2 * 2**20


def portions(rows: int, weights: int, device: torch.device) -> list[slice]:
    """Divide the rows of a batch into portions that are worked on one after the other.

    Args:
        rows: The number of rows.
        weights: The number of weights of each row that are worked on at a time.
        device: The device that holds them. An accelerator gets all rows at once, because large operations use it best.

    Returns:
        Slices that cover the rows in their order; a single empty slice if there are no rows.
    """
    most = rows if device.type != "cpu" else PORTION_BYTES // (8 * max(weights, 1))
    count = max(-(-rows // max(most, 1)), 1)
    # All portions have about the same size: a small rest would take as many operations as a full portion.
    bounds = [rows * index // count for index in range(count + 1)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]
