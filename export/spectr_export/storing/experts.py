"""Rounding a mixture's experts, each product as a linear layer's matrix; ``bundle.stacks`` says how they are stored.

In int4 every expert has blocks of its own. In int8 the outputs of ``gate_up_proj`` have scales for each expert, those
of ``down_proj`` one for all experts of a product.
"""

# X experts of a layer, E experts of a product, K inputs of an expert, N outputs.
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from spectr_export.original.ondemand import LazyWeight
from spectr_export.storing.quantiser import quantise, quantised_layouts
from spectr_export.weights import Layout
from spectr_runtime.bundle.stacks import DOWN, UP, experts_per_product, products


@dataclasses.dataclass(frozen=True, slots=True)
class ExpertStack:
    """One of the two stacks of a layer's experts.

    Attributes:
        shape: Its sizes: [X, K, N] if the inputs are first, else [X, N, K].
        up: Whether it is ``gate_up_proj``.
        inputs_first: How it stands.
    """

    shape: tuple[int, ...]
    up: bool
    inputs_first: bool

    @property
    def sizes(self) -> tuple[int, int]:
        """Outputs and inputs of an expert."""
        _, first, second = self.shape
        return (second, first) if self.inputs_first else (first, second)


def find_stacks(model: Any) -> dict[str, ExpertStack]:
    """The stacks of a model by the names of their weights; none if it is no mixture."""
    return {
        f"{path}.{name}": ExpertStack(tuple(module.get_parameter(name).shape), name == UP, module.is_transposed)
        for path, module in model.named_modules()
        if hasattr(module, "has_gate")
        for name in (UP, DOWN)
    }


def stack_layouts(stack: ExpertStack, quantisation: str, dtype: torch.dtype) -> tuple[Layout, Layout]:
    """What ``quantise_stack`` will give."""
    experts = experts_per_product(stack.shape)
    count, (outputs, inputs) = stack.shape[0] // experts, stack.sizes
    joined = (outputs * experts, inputs) if stack.up else (outputs, inputs * experts)
    codes, scales = quantised_layouts(torch.empty(joined, device="meta"), quantisation, dtype)
    rows, columns = codes.shape
    parted = (rows, experts, columns // experts) if stack.up else (experts, rows // experts, columns)
    return Layout(codes.dtype, (count, *parted)), Layout(dtype, (count, *scales.shape))


def quantise_stack(
    weight: LazyWeight, stack: ExpertStack, quantisation: str, dtype: torch.dtype
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Codes and scales, product by product.

    Args:
        weight: The experts, one per part.
        stack: What they are.
        quantisation: ``int8`` or ``int4``.
        dtype: Type of the scales.
    """
    experts = experts_per_product(stack.shape)
    layout, _ = stack_layouts(stack, quantisation, dtype)
    for start in range(0, len(weight.parts), experts):
        part = torch.cat([read() for read in weight.parts[start : start + experts]])
        (matrix_KN,) = products(part, up=stack.up, inputs_first=stack.inputs_first)
        codes, scales = quantise(matrix_KN.T, quantisation, dtype)
        yield codes.view(1, *layout.shape[1:]), scales[None]
