"""Finds layers that differ only in their weights, so that a few traced layers can serve for all.

Layers of one kind are built alike. As many of a model's first layers are traced as it takes for every kind to occur
after the first layer, and for one kind to occur twice there: three of ten equal layers, for instance. The other layers
are copied in the graph (``repetition``), if a comparison of the two traced layers of one kind shows that the
computation does not depend on a layer's index.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from spectr_runtime.adapter.eagle3 import Eagle3Head
from spectr_runtime.adapter.model import ContractModel

# Attributes in which transformers' modules keep the index of their layer.
INDEX_NAMES = ("layer_idx", "layer_id")
# Types of the attributes that are compared.
FACTS = (bool, int, float, str, tuple, list, dict, type(None))


@dataclasses.dataclass(frozen=True, slots=True)
class Pattern:
    """Says which layers of a model are traced, and which traced layer is copied for each of the others.

    Attributes:
        path: Name of the list of layers in the model.
        traced: The number of layers that are traced, from the first on.
        templates: For each further layer, the index of a traced layer of the same kind.
        twins: Indices of two traced layers of one kind.
    """

    path: str
    traced: int
    templates: Sequence[int] = ()
    twins: tuple[int, int] = (0, 0)


def find_pattern(model: ContractModel | Eagle3Head, layers: int) -> Pattern:
    """Compare the layers of a model and return which to trace; all of them if they do not repeat."""
    lists = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
    path, found = next(((name, part) for name, part in lists if len(part) == layers), ("", nn.ModuleList()))
    kinds = [_kind(layer, model.model.config.to_dict(), index, layers) for index, layer in enumerate(found)]
    # The first layer cannot be a template, because the trace computes in it what all layers share.
    firsts = [kinds.index(kind, 1) if index else 0 for index, kind in enumerate(kinds)]
    for traced in range(3, len(kinds)):
        twins = [(first, index) for index, first in enumerate(firsts[:traced]) if first < index]
        if twins and max(firsts[traced:]) < traced:
            return Pattern(path, traced, firsts[traced:], twins[0])
    return Pattern(path, layers)


@contextlib.contextmanager
def shortened(model: ContractModel | Eagle3Head, pattern: Pattern) -> Iterator[None]:
    """Remove the layers that are not traced from a model while the block runs."""
    layers: Any = model.get_submodule(pattern.path) if pattern.templates else []
    rest = list(layers[pattern.traced :])
    del layers[pattern.traced :]
    try:
        yield
    finally:
        layers.extend(rest)


def _kind(layer: nn.Module, config: dict[str, Any], index: int, layers: int) -> Any:
    """Return all that describes a layer, except its index, its weights, and settings of the whole model."""
    lists = {name: value for name, value in config.items() if isinstance(value, list) and len(value) == layers}
    settings = {name: value[index] for name, value in lists.items()}
    modules = [(name, type(module), _facts(module)) for name, module in layer.named_modules()]
    weights = [(name, weight.dtype, weight.shape) for name, weight in layer.named_parameters()]
    buffers = [(name, buffer.dtype, buffer.tolist()) for name, buffer in layer.named_buffers()]
    return settings, modules, weights, buffers


def _facts(module: nn.Module) -> dict[str, Any]:
    public = {name: value for name, value in vars(module).items() if name[0] != "_" and name not in INDEX_NAMES}
    return {name: value for name, value in public.items() if isinstance(value, FACTS)}
