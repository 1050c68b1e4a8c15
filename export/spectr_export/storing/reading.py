"""Rounds the matrices of a model to int4 while the model reads a text, each when its layer first runs.

The text is read once, all of its windows together. A layer is rounded by the inputs that it is given at this moment,
which come from the layers before it as they are stored, and then computes with its rounded matrix. So nothing larger is
in memory than one matrix, the inputs of one layer, and the factor of their products.
"""

# W windows, T tokens, K inputs of a linear layer, N outputs.
from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from spectr_export.storing.compensation import measure_feedback, quantise_compensated
from spectr_export.storing.plan import refuse_unfit
from spectr_export.storing.precision import Precision
from spectr_export.storing.quantiser import CHOOSERS, named
from spectr_export.text import WINDOW
from spectr_export.weights import Write
from spectr_runtime.bundle.weights import CODES, MINIMA, SCALES, dequantise
from spectr_runtime.contract import DTYPES


@torch.no_grad()
def write_reading(
    model: Any, names: Collection[str], ids: Sequence[int], precision: Precision, write: Write
) -> frozenset[str]:
    """Round and write the matrices of a model that a text reaches.

    Args:
        model: A causal LM in eval mode. Its own weights stay as they are.
        names: Names of the matrices.
        ids: The text's tokens.
        precision: Type of the scales, and the form of the levels.
        write: Takes the codes and scales of each matrix by their names.

    Returns:
        The names of the matrices that were written. Others have inputs by which they cannot be rounded: no token
        reached them, or the inputs are 0 or not finite.

    Raises:
        BundleError: A weight is not finite, or too large for the type.
    """
    rounder = _Rounder(DTYPES[precision.dtype], precision.quantisation, write)
    with contextlib.ExitStack() as hooks:
        for name in names:
            layer = model.get_submodule(name.removesuffix(".weight"))
            hooks.enter_context(layer.register_forward_pre_hook(functools.partial(rounder.round, name)))
            hooks.enter_context(layer.register_forward_hook(rounder.restore, always_call=True))
        # The logits of so many tokens would take more memory than all else, and the output layer is not rounded.
        model.base_model(input_ids=_together(ids), use_cache=False)
    return frozenset(rounder.written)


def _together(ids: Sequence[int]) -> torch.Tensor:
    """Return the windows [W, T] of a text, without the tokens that do not fill one; a short text is one window."""
    length = min(WINDOW, len(ids))
    return torch.tensor(ids[: len(ids) // length * length]).view(-1, length)


@dataclasses.dataclass(slots=True)
class _Rounder:
    """The hooks: ``round`` before a layer runs, ``restore`` after it.

    Attributes:
        dtype: Type of the scales.
        quantisation: ``int4`` or ``int4-asymmetric``.
        write: Takes codes and scales.
        written: Names of the matrices that were written so far.
        inputs: The inputs of the last layer; queries, keys and values share theirs, and so do others.
        feedback: The factor of these inputs.
        replaced: The parameter of the layer that is running, and its own matrix.
    """

    dtype: torch.dtype
    quantisation: str
    write: Write
    written: set[str] = dataclasses.field(default_factory=set)
    inputs: torch.Tensor | None = None
    feedback: torch.Tensor | None = None
    replaced: tuple[nn.Parameter, torch.Tensor] | None = None

    def round(self, name: str, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Round the matrix of a layer by its inputs, write it, and let the layer compute with what was written."""
        if name in self.written:
            return
        if inputs[0] is not self.inputs:
            self.inputs, self.feedback = inputs[0], None  # the old factor goes before the new one is made
            self.feedback = measure_feedback(inputs[0].reshape(-1, inputs[0].shape[-1]))
        if self.feedback is None:
            return
        weight: Any = layer.weight
        refuse_unfit(name, weight.data, self.dtype)
        turned = isinstance(layer, Conv1D)
        matrix_NK = weight.data.T if turned else weight.data
        choose = CHOOSERS[self.quantisation]
        made = named(*quantise_compensated(matrix_NK, self.feedback, choose, self.dtype), self.quantisation)
        for suffix, tensor in made.items():
            self.write(name + suffix, tensor)
        self.written.add(name)
        rounded_NK = dequantise(made[CODES], made[SCALES].float(), made.get(MINIMA))
        self.replaced = weight, weight.data
        weight.data = rounded_NK.T if turned else rounded_NK

    def restore(self, _layer: nn.Module, _inputs: object, _output: object) -> None:
        """Give the layer that ran its own matrix back."""
        if self.replaced is not None:
            weight, matrix = self.replaced
            weight.data = matrix
            self.replaced = None
