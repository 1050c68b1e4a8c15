"""The storage plan of a model: which of its weights are quantised, and the form in which each weight is written."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch

from spectr_export.original.formats.blocks import Form
from spectr_export.original.ondemand import LazyWeight
from spectr_export.storing.activations import channel_scales
from spectr_export.storing.experts import ExpertStack, find_stacks, quantise_stack, stack_layouts
from spectr_export.storing.kept import kept_forms, kept_quantisation
from spectr_export.storing.packing import pack, packed_layouts
from spectr_export.storing.precision import Precision
from spectr_export.storing.quantiser import (
    FORMS,
    fits,
    has_inputs_first,
    head_to_quantise,
    is_tied,
    quantisable,
    quantise,
    scale_to,
)
from spectr_export.weights import Layout
from spectr_runtime.bundle.rows import FINE, FINE_LARGEST_CODE, LARGEST_CODE, LEVELS, levels_to_metadata
from spectr_runtime.bundle.weights import CODES, INPUT, SCALES, Order
from spectr_runtime.contract import DTYPES
from spectr_runtime.errors import BundleError

T = TypeVar("T")
NO_INPUTS: Mapping[str, torch.Tensor] = {}
NO_WEIGHTS: Mapping[str, LazyWeight] = {}
# The scales of fp8 allow for inputs that are larger than the largest measured by this factor. A floating-point code
# loses precision by it only at the very smallest numbers.
HEADROOM = 2.0


@dataclasses.dataclass(frozen=True, slots=True)
class StoragePlan:
    """How one model is stored in one precision; made once for each model, from its shapes alone.

    Attributes:
        precision: The precision; of a checkpoint that stays in its blocks, with the types of their codes.
        matrices: The forms of the linear layers' matrices that are quantised, by name.
        stacks: The stacks of experts that are quantised, by the names of their weights.
        order: Whether the model keeps inputs first, in its layers and in its stacks of experts.
        layouts: Type and shape of every tensor that is written, by its name in the file.
        head: The name of the matrix that gives the logits if it is quantised, more finely than the others.
        tied: The name of the embedding if the head is made from its matrix.
    """

    precision: Precision
    matrices: Mapping[str, Form]
    stacks: Mapping[str, ExpertStack]
    order: Order
    layouts: Mapping[str, Layout]
    head: str | None = None
    tied: str | None = None

    @staticmethod
    def of(model: Any, precision: Precision, weights: Mapping[str, LazyWeight] = NO_WEIGHTS) -> StoragePlan:
        """Plan how to store a model.

        Args:
            model: A causal LM, which may be on the meta device.
            precision: How to store it.
            weights: The weights of a quantised checkpoint, whose blocks are kept if the precision says so.

        Raises:
            BundleError: The model has nothing to quantise, or experts that cannot be stored in fp8.
        """
        stacks = find_stacks(model)
        _refuse_fp8_experts(model, stacks, precision)
        order = Order(has_inputs_first(model), any(stack.inputs_first for stack in stacks.values()))
        matrices, quantised_stacks = dict[str, Form](), dict[str, ExpertStack]()
        head = head_to_quantise(model, precision.quantisation)
        if precision.keeps:
            matrices = kept_forms(model, weights)
            precision = dataclasses.replace(precision, quantisation=kept_quantisation(matrices))
        elif precision.quantisation != "none":
            names = sorted(quantisable(model, precision.quantisation)) + ([head] if head else [])
            matrices = dict.fromkeys(names, FORMS[precision.quantisation])
            quantised_stacks = {
                name: stack for name, stack in stacks.items() if fits(stack.sizes, precision.quantisation)
            }
        tied = _embedding(model) if head and is_tied(model) else None
        made = StoragePlan(precision, matrices, quantised_stacks, order, {}, head, tied)
        return dataclasses.replace(made, layouts=dict(made._lay_out(distinct_weights(model))))

    @property
    def metadata(self) -> dict[str, str]:
        """What the weights file says of itself: the order of its matrices, and which inputs are rounded by rows."""
        rounded = self.matrices if self.precision.quantisation == "int8" else ()
        levels = {name: FINE if name == self.head else LEVELS for name in rounded}
        return {"format": "pt", **self.order.to_metadata(), **levels_to_metadata(levels)}

    @property
    def divided(self) -> frozenset[str]:
        """The names of the matrices whose inputs are divided by scales of their own before they are rounded."""
        return frozenset(filter(self._divides, self.matrices))

    def convert(
        self, weights: Mapping[str, LazyWeight], inputs: Mapping[str, torch.Tensor] = NO_INPUTS
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield every weight once as it is to be stored, part by part; a part is made when it is asked for.

        Args:
            weights: The model's weights, in any type.
            inputs: For fp8 and int8, the result of ``measure_inputs``.

        Yields:
            A name of ``layouts``, and the next part of that tensor.

        Raises:
            BundleError: A weight is not finite, or too large for the new type.
        """
        dtype = DTYPES[self.precision.dtype]
        for name, weight in weights.items():
            stored_dtype = self._dtype(weight.dtype)
            if name in self.matrices and self.precision.keeps:
                yield from _named(name, self._keep(name, weight))
                continue
            weight = _checked(name, weight, stored_dtype)
            if name in self.stacks:
                yield from self._convert_stack(name, weight)
            elif name in self.matrices:
                yield from self._quantise(name, weight, inputs.get(name))
            else:
                yield from ((name, part().to(stored_dtype)) for part in weight.parts)
            if name == self.tied:
                assert self.head is not None
                yield from self._quantise(self.head, weight)
        if self.precision.quantisation == "fp8":
            for name, largest_K in inputs.items():
                yield name + INPUT, scale_to(HEADROOM * largest_K.max(), dtype)

    def _quantise(
        self, name: str, weight: LazyWeight, largest_K: torch.Tensor | None = None
    ) -> Iterator[tuple[str, torch.Tensor]]:
        dtype, quantisation = DTYPES[self.precision.dtype], self.precision.quantisation
        most = FINE_LARGEST_CODE if name == self.head else LARGEST_CODE
        for part in weight.parts:
            matrix_NK = part().T if self.order.layers else part()
            if self._divides(name):
                scale_K = channel_scales(torch.ones(matrix_NK.shape[1]) if largest_K is None else largest_K, dtype)
                matrix_NK = matrix_NK.float() * scale_K.float()
                yield name + INPUT, scale_K
            yield from _named(name, quantise(matrix_NK, quantisation, dtype, largest=most))

    def _keep(self, name: str, weight: LazyWeight) -> Mapping[str, torch.Tensor]:
        """Return the tensors of a matrix that stays in the blocks of its checkpoint."""
        assert weight.quantised is not None
        assert weight.quantised.unpack is not None
        dtype, blocks = DTYPES[self.precision.dtype], weight.quantised.unpack()
        for numbers in (blocks.scales_NG, blocks.minima_NG):
            if numbers is not None:
                refuse_unfit(name, numbers, dtype)
        return pack(blocks, self.matrices[name], dtype)

    def _convert_stack(self, name: str, weight: LazyWeight) -> Iterator[tuple[str, torch.Tensor]]:
        dtype = DTYPES[self.precision.dtype]
        for codes, scales in quantise_stack(weight, self.stacks[name], self._stacks_in, dtype):
            yield from _named(name, {CODES: codes, SCALES: scales})

    def _lay_out(self, weights: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, Layout]]:
        dtype, quantisation = DTYPES[self.precision.dtype], self.precision.quantisation
        for name, tensor in weights.items():
            if name in self.matrices:
                shape = (tensor.T if self.order.layers else tensor).shape
                yield from _named(name, packed_layouts(shape, self.matrices[name], dtype))
                if self._divides(name):
                    yield name + INPUT, Layout(dtype, tuple(shape[1:]))
            elif name in self.stacks:
                yield from _named(name, stack_layouts(self.stacks[name], self._stacks_in, dtype))
            else:
                yield name, Layout(self._dtype(tensor.dtype), tuple(tensor.shape))
            if name == self.tied:
                assert self.head is not None
                yield from _named(self.head, packed_layouts(tensor.shape, self.matrices[self.head], dtype))
        if quantisation == "fp8":
            yield from ((name + INPUT, Layout(dtype, ())) for name in sorted(self.matrices))

    def _divides(self, matrix: str) -> bool:
        return self.precision.quantisation == "int8" and matrix != self.head

    @property
    def _stacks_in(self) -> str:
        """The quantisation of stacks of experts, which have no minima."""
        return self.precision.quantisation.removesuffix("-asymmetric")

    def _dtype(self, given: torch.dtype) -> torch.dtype:
        """Return the type in which numbers of a type are stored: integers keep theirs."""
        return DTYPES[self.precision.dtype] if given.is_floating_point else given


def _named(name: str, made: Mapping[str, T]) -> Iterator[tuple[str, T]]:
    return ((name + suffix, value) for suffix, value in made.items())


def _embedding(model: Any) -> str:
    embedding = model.get_input_embeddings().weight
    names: dict[int, str] = {id(parameter): name for name, parameter in model.named_parameters()}
    return names[id(embedding)]


def distinct_weights(model: Any) -> dict[str, torch.Tensor]:
    """Return the parameters, each tied group once, and the buffers that transformers stores."""
    stored = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in stored}
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *buffers.items())}


def _refuse_fp8_experts(model: Any, stacks: Mapping[str, ExpertStack], precision: Precision) -> None:
    if precision.quantisation == "fp8" and stacks:
        raise BundleError(
            f"The {model.config.model_type} model is a mixture of experts, which cannot be stored in fp8: what "
            "its experts multiply is weighted in the graph before it would be rounded, and in transformers after.",
            hint="Use `int8` or `int4`.",
        )


def _checked(name: str, weight: LazyWeight, dtype: torch.dtype) -> LazyWeight:
    """Return the same weight, whose parts raise an error when they are read if a type cannot hold their numbers."""
    if not dtype.is_floating_point:
        return weight

    def checked(part: Callable[[], torch.Tensor]) -> torch.Tensor:
        tensor = part()
        refuse_unfit(name, tensor, dtype)
        return tensor

    return dataclasses.replace(weight, parts=[functools.partial(checked, part) for part in weight.parts])


def refuse_unfit(name: str, tensor: torch.Tensor, dtype: torch.dtype) -> None:
    """Refuse a weight that a floating-point type cannot hold.

    Raises:
        BundleError: A number is not finite, or too large for the type.
    """
    least, most = (float(bound) for bound in torch.aminmax(tensor))
    largest, limit = max(-least, most), torch.finfo(dtype).max
    if not math.isfinite(largest) or math.isnan(least):
        kind = "NaN" if math.isnan(least) else "infinite numbers"
        raise BundleError(f"Weight {name} holds {kind}; every weight must be finite.", hint="Get the checkpoint again.")
    if largest > limit:
        raise BundleError(
            f"Weight {name} has values up to {largest:.3g}; {str(dtype).removeprefix('torch.')} ends at {limit:.5g}.",
            hint="Use `--dtype bfloat16` or `--dtype float32`.",
        )
