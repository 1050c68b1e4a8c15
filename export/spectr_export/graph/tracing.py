"""Traces a model into a graph: a few layers of each kind, and each trace once for all models that have the same."""

# B rows, T tokens fed, L attention length, M wanted columns, S slots, Hk key/value heads, D head size, F width of the
# target's features, H width of a head's state.
from __future__ import annotations

import contextlib
import dataclasses
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from onnxscript import ir

from spectr_export.graph.kinds import Pattern, find_pattern, shortened
from spectr_export.graph.repetition import repeat_layers
from spectr_runtime.adapter.eagle3 import Eagle3Head
from spectr_runtime.adapter.model import ContractModel
from spectr_runtime.bundle import Head, ModelSpec
from spectr_runtime.contract import CALL_INPUTS, DTYPES, HEAD_INPUTS, OPSET, STATES, past_names, present_names
from spectr_runtime.errors import BundleError, first_line

# Sizes of the example call with which the model is traced. The tracer would take a size of 0 or 1 for a constant, and
# two equal sizes for one and the same.
EXAMPLE = {"B": 2, "T": 3, "L": 7, "M": 5, "S": 11}


class Tracer:
    """Traces models, and remembers the last trace for a model that has the same one.

    A trace depends on the configuration and the type of a model and not on its weights, of which only shapes and types
    are known to the tracer. So a quantised copy of a target has the trace of the target. What is done to a graph by the
    weights comes after the trace, and every graph is checked for itself.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[dict[str, Any], ModelSpec], ir.Model] | None = None

    def trace(self, model: ContractModel | Eagle3Head, spec: ModelSpec) -> ir.Model:
        """Return the traced graph, which the caller may change; ``trace`` describes arguments and errors."""
        config = model.model.config.to_dict() | {"_name_or_path": None}  # the folder that it was read from
        key = (config, dataclasses.replace(spec, quantisation="none"))
        if self._last is None or self._last[0] != key:
            self._last = key, trace(model, spec)
        return self._last[1].clone()


def trace(model: ContractModel | Eagle3Head, spec: ModelSpec) -> ir.Model:
    """Return the traced graph; layers that are like others are copied where possible, and not traced.

    Args:
        model: The model; its weights may be stand-ins of the right shape and type.
        spec: The model's sizes.

    Raises:
        BundleError: The model cannot be traced.
    """
    # A copied layer gives out nothing beside what the next one reads.
    pattern = Pattern("", spec.layers) if spec.features else find_pattern(model, spec.layers)
    with shortened(model, pattern):
        graph = _trace_layers(model, dataclasses.replace(spec, layers=pattern.traced))
    return graph if repeat_layers(graph.graph, pattern) else _trace_layers(model, spec)


def _trace_layers(model: ContractModel | Eagle3Head, spec: ModelSpec) -> ir.Model:
    inputs = [*CALL_INPUTS, *(HEAD_INPUTS if spec.head else ()), *past_names(spec.layers)]
    outputs = ["logits", *([STATES] if spec.states else ()), *present_names(spec.layers)]
    with _quiet():
        try:
            program = torch.export.export(model, _example(spec), dynamic_shapes=_dynamic_shapes(spec), strict=False)
            exported = torch.onnx.export(
                program,
                input_names=inputs,
                output_names=outputs,
                opset_version=OPSET,
                optimize=False,
                verbose=False,
            )
        except BundleError:
            raise
        except Exception as error:
            reason = first_line(error)
            raise BundleError(
                f"The {spec.architecture} model cannot be traced into one graph: {reason}", hint="Use another model."
            ) from error
    assert exported is not None
    return exported.model


def _example(spec: ModelSpec) -> tuple[Any, ...]:
    rows, tokens, length, wanted, capacity = (EXAMPLE[name] for name in "BTLMS")
    past, dtype = (rows, spec.kv_heads, capacity, spec.head_size), DTYPES[spec.dtype]
    head = () if spec.head is None else _head_example(spec.head, rows, tokens, dtype)
    return (
        torch.zeros((rows, tokens), dtype=torch.int64),
        torch.arange(tokens).repeat(rows, 1),
        torch.ones((rows, 1, tokens, length), dtype=torch.bool),
        torch.arange(rows),
        torch.zeros((rows, wanted), dtype=torch.int64),
        *head,
        [torch.zeros(past, dtype=dtype) for _ in range(2 * spec.layers)],
    )


def _head_example(head: Head, rows: int, tokens: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    features_BTF = torch.zeros((rows, tokens, head.features), dtype=dtype)
    hidden_BTH = torch.zeros((rows, tokens, head.hidden), dtype=dtype)
    return features_BTF, hidden_BTH, torch.zeros((rows, tokens), dtype=torch.bool)


def _dynamic_shapes(spec: ModelSpec) -> tuple[Any, ...]:
    b, t, length, m, s = (torch.export.Dim(name) for name in "BTLMS")
    call = ({0: b, 1: t}, {0: b, 1: t}, {0: b, 2: t, 3: length}, {0: b}, {0: b, 1: m})
    head = [{0: b, 1: t}] * len(HEAD_INPUTS) if spec.head else []
    return (*call, *head, [{0: b, 2: s} for _ in range(2 * spec.layers)])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's messages about a missing torchvision and about its own deprecations."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
