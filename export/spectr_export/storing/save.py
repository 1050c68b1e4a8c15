"""A model's folder in the bundle: its configuration, and its weights in the one file that everything reads."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from spectr_export.original.ondemand import Stored
from spectr_export.storing.experts import find_stacks
from spectr_export.storing.plan import NO_INPUTS, convert, distinct_weights, layouts
from spectr_export.storing.precision import FLOAT32, Precision
from spectr_export.storing.quantiser import has_inputs_first
from spectr_export.weights import write_weights
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.bundle.weights import Order


def save_model(
    model: Any,
    folder: Path,
    precision: Precision = FLOAT32,
    weights: Mapping[str, Stored] | None = None,
    inputs: Mapping[str, float] = NO_INPUTS,
) -> None:
    """Write ``config.json`` and ``model.safetensors``, the weights part by part under transformers' names.

    Args:
        model: A causal LM.
        folder: Where to write; made if need be.
        precision: How the weights are stored.
        weights: Its weights, in any type; None where the model holds them.
        inputs: For fp8, what ``measure_inputs`` found.

    Raises:
        BundleError: A weight does not fit the precision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], precision.dtype
    config.save_pretrained(folder)
    held = {name: Stored.of(tensor) for name, tensor in distinct_weights(model).items()} if weights is None else weights
    order = Order(has_inputs_first(model), any(stack.inputs_first for stack in find_stacks(model).values()))
    made = convert(model, held, precision, inputs)
    write_weights(folder / WEIGHTS, layouts(model, precision), made, {"format": "pt", **order.to_metadata()})
