"""A causal LM that computes in float32 while its matrices stay where and as they are stored."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


@dataclasses.dataclass(frozen=True, slots=True)
class Stored:
    """A weight that can be read when it is needed.

    Attributes:
        shape: Its sizes.
        read: Gives it in float32.
    """

    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]


def load_on_demand(config: Any, weights: Mapping[str, Stored]) -> Any:
    """A model that reads each matrix when the module that owns it runs and lets go of it afterwards.

    So a model in another type than float32, or quantised, computes in float32 in the memory of its largest matrix. In
    between, a matrix is a stand-in of the right shape and type that takes no memory. Vectors and buffers are small and
    are read at once.

    Args:
        config: Its transformers configuration.
        weights: Its weights under transformers' names; of tied ones, one.

    Returns:
        The causal LM in eval mode, with its own eager attention.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    state = {
        name: torch.zeros(1).expand(weight.shape) if len(weight.shape) > 1 else weight.read()
        for name, weight in weights.items()
    }
    family: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model = family.from_pretrained(
        None, config=config, state_dict=state, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    # A tied parameter has several names, one of which is stored.
    named = dict(model.named_parameters(remove_duplicate=False))
    read = {id(named[name]): weight.read for name, weight in weights.items() if name in named and named[name].dim() > 1}
    for module in model.modules():
        owned = {name: read[id(own)] for name, own in module.named_parameters(recurse=False) if id(own) in read}
        if owned:
            _attach(module, owned)
    return model


def _attach(module: nn.Module, owned: Mapping[str, Callable[[], torch.Tensor]]) -> None:
    stand_ins = {name: module._parameters[name] for name in owned}

    def take(_module: nn.Module, _inputs: object) -> None:
        for name, read in owned.items():
            module._parameters[name] = nn.Parameter(read(), requires_grad=False)

    def let_go(_module: nn.Module, _inputs: object, _output: object) -> None:
        module._parameters.update(stand_ins)

    module.register_forward_pre_hook(take)
    module.register_forward_hook(let_go, always_call=True)
