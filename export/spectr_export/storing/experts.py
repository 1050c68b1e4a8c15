"""Quantises the experts of a mixture, each product in the form of a linear layer's matrix.

``spectr_runtime.bundle.stacks`` describes how the result is stored, and which experts form one product. In int4 every
expert has blocks of its own. In int8 the outputs of ``gate_up_proj`` have a scale for each expert; the outputs of
``down_proj`` share one scale over all experts of a product.
"""

# X experts of a layer, E experts of a product, K inputs of an expert, N outputs.
from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from spectr_export.original.ondemand import LazyWeight
from spectr_export.storing.packing import packed_layouts
from spectr_export.storing.quantiser import FORMS, quantise
from spectr_export.weights import Layout
from spectr_runtime.bundle.stacks import DOWN, UP, experts_per_product, products
from spectr_runtime.bundle.weights import CODES, SCALES


@dataclasses.dataclass(frozen=True, slots=True)
class ExpertStack:
    """The shape of one of the two stacks in which transformers keeps the experts of a layer.

    Attributes:
        shape: The stack's sizes: [X, K, N] if the inputs are first, else [X, N, K].
        up: Whether this is ``gate_up_proj``.
        inputs_first: Whether the inputs are first.
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
    """Return the stacks of a model by the names of their weights; a model that is no mixture has none."""
    return {
        f"{path}.{name}": ExpertStack(tuple(module.get_parameter(name).shape), name == UP, module.is_transposed)
        for path, module in model.named_modules()
        if hasattr(module, "has_gate")  # transformers marks the modules with stacked experts in this way
        for name in (UP, DOWN)
    }


def stack_layouts(stack: ExpertStack, quantisation: str, dtype: torch.dtype) -> dict[str, Layout]:
    """Return the layouts of the codes and scales that ``quantise_stack`` makes, by their suffixes."""
    experts = experts_per_product(stack.shape)
    count, (outputs, inputs) = stack.shape[0] // experts, stack.sizes
    joined = (outputs * experts, inputs) if stack.up else (outputs, inputs * experts)
    one = packed_layouts(joined, FORMS[quantisation], dtype)
    rows, columns = one[CODES].shape
    parted = (rows, experts, columns // experts) if stack.up else (experts, rows // experts, columns)
    return {
        CODES: Layout(one[CODES].dtype, (count, *parted)),
        SCALES: Layout(dtype, (count, *one[SCALES].shape)),
    }


def quantise_stack(
    weight: LazyWeight, stack: ExpertStack, quantisation: str, dtype: torch.dtype
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield the codes and scales of each product.

    Args:
        weight: The experts, one for each part.
        stack: The shape of the stack.
        quantisation: ``int8`` or ``int4``.
        dtype: Type of the scales.
    """
    experts = experts_per_product(stack.shape)
    shape = stack_layouts(stack, quantisation, dtype)[CODES].shape
    for start in range(0, len(weight.parts), experts):
        part = torch.cat([read() for read in weight.parts[start : start + experts]])
        (matrix_KN,) = products(part, up=stack.up, inputs_first=stack.inputs_first)
        codes, scales = quantise(matrix_KN.T, quantisation, dtype).values()
        yield codes.view(1, *shape[1:]), scales[None]
