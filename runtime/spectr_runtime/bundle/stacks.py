"""The stacks of a mixture's experts: the matrices that a layer multiplies with, and their layout when quantised.

transformers keeps the experts of a layer in two stacks of matrices, ``gate_up_proj`` and ``down_proj``, with one matrix
of each expert in both. A graph multiplies with several experts at once, as with one larger matrix, called a product
here. Its first dimension is the inputs. In ``gate_up_proj`` the outputs of the experts are side by side, in
``down_proj`` their inputs. When quantised, a product is stored like the matrix of a linear layer, and all products of a
stack one after the other:

    NAME.codes     gate_up_proj: [P, K, E, N]    down_proj: [P, E, K, N]; int4 has two codes per byte, N / 2
    NAME.scales    int8: [P, E * N], [P, N]      int4: [P, G, E * N], [P, E * G, N]

In transformers' own stacks either the inputs or the outputs are first; ``spectr_runtime.bundle.weights.Order`` says
which.
"""

# X experts of a layer, P products, E experts of a product, K inputs of an expert, N outputs, G blocks of inputs.
from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

UP, DOWN = "gate_up_proj", "down_proj"
# The most weights of a product, unless a single expert has more. A runtime may copy a whole product at a time, to
# transpose or to widen it.
PRODUCT = 2**26


def experts_per_product(stack: Sequence[int]) -> int:
    """Return the number of experts in a product: the most that divide the stack evenly within ``PRODUCT`` weights.

    Args:
        stack: Shape of the stack, experts first.
    """
    experts, *sizes = stack
    limit = max(PRODUCT // math.prod(sizes), 1)
    return max(number for number in range(1, experts + 1) if experts % number == 0 and number <= limit)


def products(stack: torch.Tensor, *, up: bool, inputs_first: bool) -> Iterator[torch.Tensor]:
    """Yield the products of a stack: [K, E * N] of ``gate_up_proj``, [E * K, N] of ``down_proj``.

    Args:
        stack: [X, K, N] if the inputs are first, else [X, N, K].
        up: Whether the stack is ``gate_up_proj``.
        inputs_first: Whether the inputs are first in the stack.
    """
    experts = experts_per_product(stack.shape)
    for start in range(0, len(stack), experts):
        part = stack if experts == len(stack) else stack[start : start + experts]
        if up:
            yield part.transpose(0, 1).flatten(1) if inputs_first else part.flatten(0, 1).T
        else:
            yield part.flatten(0, 1) if inputs_first else part.transpose(1, 2).flatten(0, 1)


def is_up(name: str) -> bool:
    """Return whether a weight of this name is the ``gate_up_proj`` of a layer."""
    return name.endswith(UP)


def stack_shape(codes: torch.Tensor, scales: torch.Tensor, *, up: bool, inputs_first: bool) -> tuple[int, int, int]:
    """Return the shape that a quantised stack has in transformers."""
    count, experts = codes.shape[0], codes.shape[2 if up else 1]
    inputs, outputs = codes.shape[1 if up else 2], scales.shape[-1] // (experts if up else 1)
    return (count * experts, inputs, outputs) if inputs_first else (count * experts, outputs, inputs)


def expert(codes: torch.Tensor, scales: torch.Tensor, number: int, *, up: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the codes and scales of one expert's matrix, in the layout of a linear layer's.

    Args:
        codes: Codes of the stack.
        scales: Scales of the stack.
        number: Index of the expert.
        up: Whether the stack is ``gate_up_proj``.
    """
    experts = codes.shape[2 if up else 1]
    product, index = divmod(number, experts)
    own = scales[product]
    if up:
        return codes[product, :, index], own.chunk(experts, -1)[index]
    return codes[product, index], own if own.dim() == 1 else own.chunk(experts)[index]
