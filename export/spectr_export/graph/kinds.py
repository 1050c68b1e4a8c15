"""Layers that are alike but for their weights, so that a few of them stand for all.

A model's first layers are traced until every kind has been seen behind another layer, and one kind twice. The others
are repeated in the graph, once the two of one kind have shown that a layer's place means nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from spectr_runtime.adapter.model import ContractModel

# Where a layer stands in the model, as transformers' modules know it.
INDEX_NAMES = ("layer_idx", "layer_id")
FACTS = (bool, int, float, str, tuple, list, dict, type(None))


@dataclasses.dataclass(frozen=True, slots=True)
class Pattern:
    """Which layers of a model are traced, and which of them stands for each of the others.

    Attributes:
        path: Name of the list of layers in the model.
        traced: How many layers are traced, the first ones.
        templates: For each layer behind them the traced one of its kind.
        twins: Two traced layers of one kind.
    """

    path: str
    traced: int
    templates: Sequence[int] = ()
    twins: tuple[int, int] = (0, 0)


def find_pattern(model: ContractModel, layers: int) -> Pattern:
    """Compare a model's layers; where they do not repeat, all are to be traced."""
    lists = [(name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList)]
    path, found = next(((name, part) for name, part in lists if len(part) == layers), ("", nn.ModuleList()))
    kinds = [_kind(layer, model.model.config.to_dict(), index, layers) for index, layer in enumerate(found)]
    # The first layer is no template: what the layers share is computed in it.
    firsts = [kinds.index(kind, 1) if index else 0 for index, kind in enumerate(kinds)]
    for traced in range(3, len(kinds)):
        twins = [(first, index) for index, first in enumerate(firsts[:traced]) if first < index]
        if twins and max(firsts[traced:]) < traced:
            return Pattern(path, traced, firsts[traced:], twins[0])
    return Pattern(path, layers)


@contextlib.contextmanager
def shortened(model: ContractModel, pattern: Pattern) -> Iterator[None]:
    """Take the layers that are not traced out of a model for a while."""
    layers: Any = model.get_submodule(pattern.path) if pattern.templates else []
    rest = list(layers[pattern.traced :])
    del layers[pattern.traced :]
    try:
        yield
    finally:
        layers.extend(rest)


def _kind(layer: nn.Module, config: dict[str, Any], index: int, layers: int) -> Any:
    """All that is told of a layer but its index, its weights and what it shares with the whole model."""
    told = {name: value[index] for name, value in config.items() if isinstance(value, list) and len(value) == layers}
    modules = [(name, type(module), _facts(module)) for name, module in layer.named_modules()]
    weights = [(name, weight.dtype, weight.shape) for name, weight in layer.named_parameters()]
    buffers = [(name, buffer.dtype, buffer.tolist()) for name, buffer in layer.named_buffers()]
    return told, modules, weights, buffers


def _facts(module: nn.Module) -> dict[str, Any]:
    told = vars(module).items()
    return {
        name: value for name, value in told if name[0] != "_" and name not in INDEX_NAMES and isinstance(value, FACTS)
    }
