"""Measures the inputs of a model's linear layers: fp8 needs a scale with which the largest of them can be written."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from spectr_export.text import batches


@torch.inference_mode()
def measure_inputs(model: Any, names: Iterable[str], ids: Sequence[int]) -> dict[str, float]:
    """Return the largest magnitude that each linear layer multiplies while the model reads a text.

    Args:
        model: A causal LM in eval mode.
        names: Names of the layers' matrices.
        ids: The text's tokens.

    Returns:
        The largest magnitude by the name of the matrix; layers that share their input have the same one.
    """
    largest = dict.fromkeys(names, 0.0)

    def keep(name: str, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        largest[name] = max(largest[name], float(inputs[0].abs().max()))

    with contextlib.ExitStack() as hooks:
        for name in largest:
            layer = model.get_submodule(name.removesuffix(".weight"))
            hooks.enter_context(layer.register_forward_pre_hook(functools.partial(keep, name)))
        for batch in batches(ids):
            model(input_ids=torch.tensor(batch))
    return largest
