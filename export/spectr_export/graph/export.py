"""Writes the graph of a model: the engine contract in standard ONNX, with all weights left in ``model.safetensors``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from onnxscript import ir

from spectr_export.graph.dequantisation import dequantise_stacks, dequantise_weight, is_stack, read_undecoded
from spectr_export.graph.fusion import simplify
from spectr_export.graph.initializers import external_tensor
from spectr_export.graph.rounding import round_products
from spectr_export.graph.slicing import cut_stacks
from spectr_export.graph.tracing import Tracer
from spectr_export.weights import read_header
from spectr_runtime.adapter.eagle3 import Eagle3Head, load_head
from spectr_runtime.adapter.model import ContractModel, load_contract_model
from spectr_runtime.bundle import ModelSpec
from spectr_runtime.bundle.layout import GRAPH, WEIGHTS
from spectr_runtime.bundle.weights import CODES, read_stored
from spectr_runtime.errors import BundleError


def export_graph(folder: Path, spec: ModelSpec, tracer: Tracer | None = None) -> None:
    """Write ``model.onnx`` beside ``config.json`` and ``model.safetensors``.

    Every weight is external data in ``model.safetensors``, so that the folder holds one set of weights, which
    transformers and every ONNX runtime read. A node that computes something from a weight, for instance a transpose,
    stays in the graph, and a runtime folds it when it loads the graph.

    Args:
        folder: Folder of one model of a bundle.
        spec: The model's sizes.
        tracer: Knows the traces of models before; None traces the model anew.

    Raises:
        BundleError: The model cannot be traced, or its graph does not keep the engine contract.
    """
    model = _load(folder, spec)
    graph = (tracer or Tracer()).trace(model, spec)
    _name_dimensions(graph)
    names = _stored_names(model, folder)
    stored = _point_at_weights(graph, names, folder)
    simplify(graph, stored)
    dequantise_stacks(graph, names, folder)
    round_products(graph, names, folder)
    cut_stacks(graph, stored)
    _check(graph, spec)
    ir.save(graph, folder / GRAPH)


def _load(folder: Path, spec: ModelSpec) -> ContractModel | Eagle3Head:
    how: Any = {"dtype": spec.dtype, "device": torch.device("cpu"), "read": read_undecoded}
    if spec.head is not None:
        return load_head(folder, **how)
    return load_contract_model(folder, **how, features=() if spec.features is None else spec.features.layers)


def _name_dimensions(graph: ir.Model) -> None:
    """Give the dynamic sizes the letters of the contract instead of the tracer's names, such as ``s77``."""
    shapes = {value.name: value.shape or ir.Shape([]) for value in graph.graph.inputs}
    rows, _, tokens, length = shapes["attention_mask"]
    wanted, capacity = shapes["logit_index"][1], shapes["past_key_values.0.key"][2]
    letters = dict(zip(map(str, (rows, tokens, length, wanted, capacity)), "BTLMS", strict=True))
    outputs = [value for node in graph.graph for value in node.outputs]
    for value in (*graph.graph.inputs, *outputs):
        if value.shape is not None:
            value.shape = ir.Shape([_renamed(size, letters) for size in value.shape])


def _renamed(size: int | ir.SymbolicDim, letters: Mapping[str, str]) -> int | str | None:
    return size if isinstance(size, int) else letters.get(str(size))


def _stored_names(model: ContractModel | Eagle3Head, folder: Path) -> dict[str, str]:
    """Return the name in the file of every weight in the graph; tied parameters share one entry of the file."""
    header = read_header(folder / WEIGHTS)
    parameters = dict(model.model.named_parameters(remove_duplicate=False))
    stored = {id(parameter): name for name, parameter in parameters.items() if {name, name + CODES} & header.keys()}
    return {f"model.{name}": stored[id(parameter)] for name, parameter in parameters.items()}


def _point_at_weights(graph: ir.Model, stored_names: Mapping[str, str], folder: Path) -> set[str]:
    """Replace the data of every weight by its entry of the file, and return the names of the weights' initializers."""
    header, (_, order) = read_header(folder / WEIGHTS), read_stored(folder / WEIGHTS)
    weights = {name: value for name, value in graph.graph.initializers.items() if name in stored_names}
    stacks = {name for name in weights if is_stack(stored_names[name], header)}
    for name, value in weights.items():
        if name in stacks:
            continue
        if stored_names[name] not in header:
            dequantise_weight(graph, value, stored_names[name], header, folder, inputs_first=order.layers)
            continue
        entry = header[stored_names[name]]
        assert value.dtype is not None
        assert value.shape == entry.shape, f"{name} is {value.shape} in the graph and {entry.shape} in the file"
        value.const_value = external_tensor(name, value.dtype, entry, folder)
    initializers = graph.graph.initializers.items()
    return stacks | {name for name, value in initializers if isinstance(value.const_value, ir.ExternalTensor)}


def _check(graph: ir.Model, spec: ModelSpec) -> None:
    operators = [(node.domain, node.op_type) for node in graph.graph.all_nodes()]
    foreign = sorted({f"{domain}::{name}" for domain, name in operators if domain})
    if foreign:
        raise BundleError(
            f"The graph needs {', '.join(foreign)}, which are not ONNX operators.", hint="Use another model."
        )
    found, expected = operators.count(("", "TensorScatter")), 2 * spec.layers
    if found != expected:
        raise BundleError(
            f"The graph writes its cache {found} times; {spec.layers} layers need {expected}.",
            hint="The model's layers do not keep their keys and values in transformers' Cache; use another model.",
        )
