"""A causal LM that computes in float32 although its matrices stay in their files and in their stored types.

A hook reads the matrices of a module just before the module runs, and another lets go of them afterwards.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from spectr_export.original.formats.blocks import QuantisedMatrix
from spectr_runtime.errors import BundleError


@dataclasses.dataclass(frozen=True, slots=True)
class LazyWeight:
    """A weight that is read when it is needed, in equal parts along its first dimension.

    A stack of matrices, such as the experts of a layer, has a part for each matrix. Any other weight is one part.

    Attributes:
        dtype: Type in which the parts are read.
        shape: Sizes of the whole weight.
        parts: Functions, each of which reads one part; a part has as many dimensions as the weight.
        quantised: The blocks in which a quantised checkpoint has the weight; None if it has none.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]
    parts: Sequence[Callable[[], torch.Tensor]]
    quantised: QuantisedMatrix | None = None

    @staticmethod
    def of(tensor: torch.Tensor | QuantisedMatrix) -> LazyWeight:
        """Make a lazy weight of a tensor that is mapped or in memory, or of a quantised matrix."""
        if isinstance(tensor, QuantisedMatrix):
            return LazyWeight(torch.float32, tuple(tensor.shape), [tensor.read], tensor)
        stacked = tensor.dim() == 3
        views = [functools.partial(tensor.narrow, 0, number, 1) for number in range(len(tensor))] if stacked else None
        return LazyWeight(tensor.dtype, tuple(tensor.shape), views or [lambda: tensor])

    def read(self) -> torch.Tensor:
        """Read the whole weight in float32."""
        parts = [part().float() for part in self.parts]
        return parts[0] if len(parts) == 1 else torch.cat(parts)


@dataclasses.dataclass(frozen=True, slots=True)
class LazyExperts:
    """A stand-in for stacked experts that reads one at a time, as transformers' loop over the experts asks for it."""

    weight: LazyWeight

    def __getitem__(self, number: torch.Tensor) -> torch.Tensor:
        """Read the matrix of one expert in float32."""
        return self.weight.parts[int(number)]()[0].float()


def load_on_demand(config: Any, weights: Mapping[str, LazyWeight]) -> Any:
    """Make a model that reads each matrix when the module that owns it runs, and lets go of it afterwards.

    So a model that is quantised, or in another type than float32, computes in float32 within the memory of its largest
    matrix, and a mixture within the memory of one expert. While a module does not run, its matrices are stand-ins of
    the right shape and type that take no memory. Vectors and buffers are small and are read at once.

    Args:
        config: The model's transformers configuration.
        weights: The model's weights by transformers' names; of tied weights, one.

    Returns:
        The causal LM in eval mode, with transformers' eager attention and experts.

    Raises:
        BundleError: Weights are missing.
    """
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    # Each stand-in is filled with a number of its own, because transformers ties weights that it finds equal.
    state = {
        name: torch.full((1,), float(number)).expand(weight.shape) if len(weight.shape) > 1 else weight.read()
        for number, (name, weight) in enumerate(weights.items())
    }
    family: Any = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    model, report = family.from_pretrained(
        None,
        config=config,
        state_dict=state,
        dtype=torch.float32,
        attn_implementation="eager",
        experts_implementation="eager",
        output_loading_info=True,
    )
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise BundleError(
            f"The checkpoint lacks {len(missing)} weights of its architecture, among them {missing[0]}.",
            hint="Get the checkpoint again.",
        )
    # A tied parameter has several names, only one of which is among the weights.
    named = dict(model.named_parameters(remove_duplicate=False))
    matrices = {id(named[name]): weight for name, weight in weights.items() if name in named and len(weight.shape) > 1}
    for module in model.modules():
        own = module.named_parameters(recurse=False)
        owned = {name: matrices[id(parameter)] for name, parameter in own if id(parameter) in matrices}
        if owned:
            _attach(module, owned)
    return model.eval()


def _attach(module: nn.Module, owned: Mapping[str, LazyWeight]) -> None:
    stand_ins = {name: module._parameters[name] for name in owned}
    # transformers marks the modules with stacked experts in this way.
    mixture = hasattr(module, "has_gate")

    def take(_module: nn.Module, _inputs: object) -> None:
        for name, weight in owned.items():
            stacked = mixture and len(weight.parts) > 1
            parameters: dict[str, Any] = module._parameters
            parameters[name] = LazyExperts(weight) if stacked else nn.Parameter(weight.read(), requires_grad=False)

    def let_go(_module: nn.Module, _inputs: object, _output: object) -> None:
        module._parameters.update(stand_ins)

    module.register_forward_pre_hook(take)
    module.register_forward_hook(let_go, always_call=True)
