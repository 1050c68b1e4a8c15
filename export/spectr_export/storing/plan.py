"""What is stored of a model in a precision: which of its matrices are quantised, and every weight in its form."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from spectr_export.original.ondemand import Stored
from spectr_export.storing.experts import Stack, find_stacks, quantise_stack, stack_layouts
from spectr_export.storing.precision import Precision
from spectr_export.storing.quantiser import fits, has_inputs_first, quantisable, quantise, quantised_layouts, scale_to
from spectr_export.weights import Layout
from spectr_runtime.bundle.weights import CODES, INPUT, SCALES
from spectr_runtime.contract import DTYPES
from spectr_runtime.errors import BundleError

NO_INPUTS: Mapping[str, float] = {}
# How far a text may go beyond the largest inputs that were measured. Floating-point codes lose nothing by it but the
# very smallest numbers.
HEADROOM = 2.0


def layouts(model: Any, precision: Precision) -> dict[str, Layout]:
    """What ``convert`` will give, by name.

    Raises:
        BundleError: As ``quantised_matrices``.
    """
    made: dict[str, Layout] = {}
    quantised, stacks = quantised_matrices(model, precision), _quantised_stacks(model, precision)
    turned = has_inputs_first(model)
    for name, tensor in distinct_weights(model).items():
        if name in quantised:
            pair = quantised_layouts(tensor.T if turned else tensor, precision.quantisation, DTYPES[precision.dtype])
            made[name + CODES], made[name + SCALES] = pair
        elif name in stacks:
            pair = stack_layouts(stacks[name], precision.quantisation, DTYPES[precision.dtype])
            made[name + CODES], made[name + SCALES] = pair
        else:
            made[name] = Layout(_dtype(tensor, precision), tuple(tensor.shape))
    if precision.quantisation == "fp8":
        made |= {name + INPUT: Layout(DTYPES[precision.dtype], ()) for name in sorted(quantised)}
    return made


def convert(
    model: Any, weights: Mapping[str, Stored], precision: Precision, inputs: Mapping[str, float] = NO_INPUTS
) -> Iterator[tuple[str, torch.Tensor]]:
    """Give every weight of a model once as it is to be stored, part by part, made when it is asked for.

    Args:
        model: A causal LM.
        weights: Its weights, in any type.
        precision: How they are to be stored.
        inputs: For fp8, the largest number that each quantised matrix is multiplied with.

    Yields:
        The name in transformers' model (of quantised weights, with a suffix) and the next part of the tensor.

    Raises:
        BundleError: A weight is too large for the new type.
    """
    quantised, stacks = quantised_matrices(model, precision), _quantised_stacks(model, precision)
    turned = has_inputs_first(model)
    for name, weight in weights.items():
        dtype = DTYPES[precision.dtype] if weight.dtype.is_floating_point else weight.dtype
        pairs: Iterable[tuple[torch.Tensor, torch.Tensor]] = ()
        if dtype == torch.float16:
            weight = _checked(name, weight)
        if name in stacks:
            pairs = quantise_stack(weight, stacks[name], precision.quantisation, dtype)
        elif name in quantised:
            matrices = (part().T if turned else part() for part in weight.parts)
            pairs = (quantise(matrix_NK, precision.quantisation, dtype) for matrix_NK in matrices)
        else:
            yield from ((name, part().to(dtype)) for part in weight.parts)
        for codes, scales in pairs:
            yield name + CODES, codes
            yield name + SCALES, scales
    for name, largest in inputs.items():
        yield name + INPUT, scale_to(torch.tensor(HEADROOM * largest), DTYPES[precision.dtype])


def distinct_weights(model: Any) -> dict[str, torch.Tensor]:
    """Parameters, tied ones once, and the buffers that transformers stores."""
    stored = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in stored}
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *buffers.items())}


def _dtype(tensor: torch.Tensor, precision: Precision) -> torch.dtype:
    return DTYPES[precision.dtype] if tensor.is_floating_point() else tensor.dtype


def quantised_matrices(model: Any, precision: Precision) -> set[str]:
    """Names of the linear layers' matrices that a precision quantises.

    Raises:
        BundleError: The model has nothing to quantise, or experts that cannot be in fp8.
    """
    if precision.quantisation == "none":
        return set()
    if precision.quantisation == "fp8" and find_stacks(model):
        raise BundleError(
            f"The {model.config.model_type} model is a mixture of experts, which cannot be stored in fp8: what "
            "its experts multiply is weighted in the graph before it would be rounded, and in transformers after.",
            hint="Use `int8` or `int4`.",
        )
    return quantisable(model, precision.quantisation)


def _quantised_stacks(model: Any, precision: Precision) -> dict[str, Stack]:
    if precision.quantisation == "none":
        return {}
    stacks = find_stacks(model).items()
    return {name: stack for name, stack in stacks if fits(stack.sizes, precision.quantisation)}


def _checked(name: str, weight: Stored) -> Stored:
    """The same weight, whose parts are refused when they are read if they do not fit float16."""
    parts = [functools.partial(_refuse_large, name, part) for part in weight.parts]
    return dataclasses.replace(weight, parts=parts)


def _refuse_large(name: str, part: Callable[[], torch.Tensor]) -> torch.Tensor:
    tensor = part()
    largest, limit = float(tensor.abs().max()), torch.finfo(torch.float16).max
    if largest > limit:
        raise BundleError(
            f"Weight {name} has values up to {largest:.3g}; float16 ends at {limit:.0f}.",
            hint="Use `--dtype bfloat16` or `--dtype float32`.",
        )
    return tensor
