"""Stacks of a mixture's experts: the matrices that a layer multiplies with.

transformers keeps the experts of a layer as two stacks, one matrix each. A graph multiplies with several experts as
with one matrix, inputs first: those of ``gate_up_proj`` have their outputs side by side, those of ``down_proj`` their
inputs.
"""

# X experts of a layer, E experts of a product, K inputs of an expert, N outputs.
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

# Weights of a product at most, but for experts that are larger: what a runtime turns or widens at a time.
PRODUCT = 2**26


def experts_per_product(stack: Sequence[int]) -> int:
    """How many experts are one matrix: as many as divide the stack evenly and stay within ``PRODUCT`` weights.

    Args:
        stack: Sizes of the stack, experts first.
    """
    experts, *sizes = stack
    limit = max(PRODUCT // math.prod(sizes), 1)
    return max(number for number in range(1, experts + 1) if experts % number == 0 and number <= limit)


def products(stack: torch.Tensor, *, up: bool, inputs_first: bool) -> Iterator[torch.Tensor]:
    """The matrices, inputs first: [K, E * N] of ``gate_up_proj``, [E * K, N] of ``down_proj``.

    Args:
        stack: [X, K, N] if the inputs are first, else [X, N, K].
        up: Whether it is ``gate_up_proj``.
        inputs_first: How the stack stands.
    """
    experts = experts_per_product(stack.shape)
    for start in range(0, len(stack), experts):
        part = stack if experts == len(stack) else stack[start : start + experts]
        if up:
            yield part.transpose(0, 1).flatten(1) if inputs_first else part.flatten(0, 1).T
        else:
            yield part.flatten(0, 1) if inputs_first else part.transpose(1, 2).flatten(0, 1)
