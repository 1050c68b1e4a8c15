"""The check of what a draft that is a head on its target is fed beside tokens."""

from __future__ import annotations

import torch

from spectr_runtime.bundle import ModelSpec
from spectr_runtime.contract.call import DTYPES, HEAD_INPUTS, HeadInputs
from spectr_runtime.errors import EngineError


def check_head(inputs: HeadInputs | None, spec: ModelSpec, rows: int, tokens: int) -> None:
    """Check that a call has what a head is fed if it is for one, and that shapes and types agree.

    Args:
        inputs: The further inputs of the call.
        spec: The model's sizes.
        rows: Rows of the call.
        tokens: Tokens that are fed to each row.

    Raises:
        EngineError: Something does not fit.
    """
    head = spec.head
    if inputs is None or head is None:
        if (inputs is None) != (head is None):
            kind = "a model of its own" if head is None else f"a head of kind {head.kind}"
            raise EngineError(
                f"The draft is {kind}; the call has {'no ' if inputs is None else ''}states of tokens before."
            )
        return
    dtype = DTYPES[spec.dtype]
    tensors = (inputs.features_BTF, inputs.hidden_BTH, inputs.own_BT)
    expected = (
        ((rows, tokens, head.features), dtype),
        ((rows, tokens, head.hidden), dtype),
        ((rows, tokens), torch.bool),
    )
    for name, tensor, (shape, wanted) in zip(HEAD_INPUTS, tensors, expected, strict=True):
        if tensor.shape != shape or tensor.dtype != wanted:
            raise EngineError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}; this call needs {shape} {wanted}.")
