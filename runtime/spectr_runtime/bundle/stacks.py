"""Stacks of a mixture's experts: the matrices that a layer multiplies with, and how they stand when quantised.

transformers keeps the experts of a layer as two stacks, one matrix each. A graph multiplies with several experts as
with one matrix, inputs first: those of ``gate_up_proj`` have their outputs side by side, those of ``down_proj`` their
inputs. Quantised, each product is stored as the matrix of a linear layer is, one behind the other:

    NAME.codes     gate_up_proj: [P, K, E, N]    down_proj: [P, E, K, N]; int4 has two codes per byte, N / 2
    NAME.scales    int8: [P, E * N], [P, N]      int4: [P, G, E * N], [P, E * G, N]

``spectr_runtime.bundle.weights.Order`` says whether transformers has inputs or outputs first in a stack.
"""

# X experts of a layer, P products, E experts of a product, K inputs of an expert, N outputs, G blocks of inputs.
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

UP, DOWN = "gate_up_proj", "down_proj"
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


def is_up(name: str) -> bool:
    """Whether a weight of this name is the first of a layer's two stacks."""
    return name.endswith(UP)


def stack_shape(codes: torch.Tensor, scales: torch.Tensor, *, up: bool, inputs_first: bool) -> tuple[int, int, int]:
    """Sizes of a quantised stack as transformers has it."""
    count, experts = codes.shape[0], codes.shape[2 if up else 1]
    inputs, outputs = codes.shape[1 if up else 2], scales.shape[-1] // (experts if up else 1)
    return (count * experts, inputs, outputs) if inputs_first else (count * experts, outputs, inputs)


def expert(codes: torch.Tensor, scales: torch.Tensor, number: int, *, up: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes and scales of one expert's matrix, as those of a linear layer.

    Args:
        codes: The stack's codes.
        scales: Its scales.
        number: Which expert.
        up: Whether it is ``gate_up_proj``.
    """
    experts = codes.shape[2 if up else 1]
    product, index = divmod(number, experts)
    own = scales[product]
    if up:
        return codes[product, :, index], own.chunk(experts, -1)[index]
    return codes[product, index], own if own.dim() == 1 else own.chunk(experts)[index]
