"""The type in which a model's weights are stored and its cache is kept."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import torch

from spectr_export.weights import Layout
from spectr_runtime.contract import DTYPES
from spectr_runtime.errors import BundleError


@dataclasses.dataclass(frozen=True, slots=True)
class Precision:
    """How a model is stored.

    Attributes:
        dtype: Type of the weights and of the cache: ``float32``, ``float16`` or ``bfloat16``.
    """

    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise BundleError(f"Type {self.dtype!r} is not known; it must be {', '.join(DTYPES)}.")


FLOAT32 = Precision()


def layouts(model: Any, precision: Precision) -> dict[str, Layout]:
    """What ``convert`` will give, by name."""
    return {
        name: Layout(_dtype(tensor, precision), tuple(tensor.shape)) for name, tensor in distinct_weights(model).items()
    }


def convert(model: Any, precision: Precision) -> Iterator[tuple[str, torch.Tensor]]:
    """Give every weight of a model once, in its new type, made when it is asked for.

    Args:
        model: A causal LM, its weights in any type.
        precision: The new type of what is a floating-point number.

    Yields:
        The name in transformers' model and the tensor; of tied weights, the first.

    Raises:
        BundleError: A weight is too large for the new type.
    """
    for name, tensor in distinct_weights(model).items():
        converted = tensor.to(_dtype(tensor, precision))
        if precision.dtype == "float16" and not bool(converted.isfinite().all()):
            raise BundleError(
                f"Weight {name} has values up to {float(tensor.abs().max()):.3g}; float16 ends at 65504.",
                hint="Use `--dtype bfloat16` or `--dtype float32`.",
            )
        yield name, converted


def distinct_weights(model: Any) -> dict[str, torch.Tensor]:
    """Parameters, tied ones once, and the buffers that transformers stores."""
    stored = model.state_dict().keys()
    buffers = {name: buffer for name, buffer in model.named_buffers() if name in stored}
    return {name: tensor.detach() for name, tensor in (*model.named_parameters(), *buffers.items())}


def _dtype(tensor: torch.Tensor, precision: Precision) -> torch.dtype:
    return DTYPES[precision.dtype] if tensor.is_floating_point() else tensor.dtype
