"""The folder of a model in the bundle: its configuration, and all of its weights in one file."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from spectr_export.original.ondemand import LazyWeight
from spectr_export.storing.plan import NO_INPUTS, StoragePlan, distinct_weights
from spectr_export.storing.precision import FLOAT32
from spectr_export.storing.quantiser import CHOOSERS
from spectr_export.storing.reading import write_reading
from spectr_export.weights import writing
from spectr_runtime.bundle.layout import WEIGHTS


def save_model(
    model: Any,
    folder: Path,
    plan: StoragePlan | None = None,
    weights: Mapping[str, LazyWeight] | None = None,
    inputs: Mapping[str, torch.Tensor] = NO_INPUTS,
    ids: Sequence[int] = (),
) -> frozenset[str]:
    """Write ``config.json`` and ``model.safetensors``, the weights part by part under transformers' names.

    Args:
        model: A causal LM.
        folder: The folder to write to; it is made if it does not exist.
        plan: How to store the model; None stores it in float32.
        weights: The model's weights, in any type; None takes those that the model holds in memory.
        inputs: For fp8 and int8, the result of ``measure_inputs``.
        ids: For int4, the tokens of a text; matrices that it reaches are rounded by what they multiply. Without a text
            all are rounded by their weights alone.

    Returns:
        The names of the matrices that were rounded by their inputs.

    Raises:
        BundleError: A weight does not fit the precision.
    """
    plan = plan or StoragePlan.of(model, FLOAT32)
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], plan.precision.dtype
    if plan.tied is not None:
        config.tie_word_embeddings = False  # the head has codes of its own
    config.save_pretrained(folder)
    if weights is None:
        weights = {name: LazyWeight.of(tensor) for name, tensor in distinct_weights(model).items()}
    with writing(folder / WEIGHTS, plan.layouts, plan.metadata) as write:
        read = frozenset[str]()
        if ids and plan.precision.quantisation in CHOOSERS:
            read = write_reading(model, plan.matrices, ids, plan.precision, write)
        rest = {name: weight for name, weight in weights.items() if name not in read}
        for name, part in plan.convert(rest, inputs):
            write(name, part)
    return read
