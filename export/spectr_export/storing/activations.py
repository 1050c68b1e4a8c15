"""Measures the inputs of a model's linear layers, which fp8 and int8 divide by scales before they round them."""

# K inputs of a linear layer.

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn

from spectr_export.storing.quantiser import layer_sizes
from spectr_export.text import batches

LEAST = 1e-4  # of the largest input: a channel that is hardly used is taken to be as large


@torch.inference_mode()
def measure_inputs(model: Any, names: Iterable[str], ids: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the largest magnitude of every input of each linear layer while the model reads a text.

    Args:
        model: A causal LM in eval mode.
        names: Names of the layers' matrices.
        ids: The text's tokens.

    Returns:
        The largest magnitudes [K] by the name of the matrix, 0 for a layer that the text does not reach; layers that
        share their input have the same ones.
    """
    layers = {name: model.get_submodule(name.removesuffix(".weight")) for name in names}
    largest = {name: torch.zeros(layer_sizes(layer)[1]) for name, layer in layers.items()}

    def keep(name: str, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        largest[name] = torch.maximum(largest[name], inputs[0].abs().flatten(0, -2).amax(0).float())

    with contextlib.ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.enter_context(layer.register_forward_pre_hook(functools.partial(keep, name)))
        for batch in batches(ids):
            model(input_ids=torch.tensor(batch))
    return largest


def channel_scales(largest_K: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the scales [K] that leave the inputs of an int8 layer about equally large, and its weights not much less.

    They are the square roots of the largest magnitudes, with a geometric mean of 1. (SmoothQuant, arXiv 2211.10438,
    divides by those of the weights as well, which layers that share their inputs would have to share. That was no
    better for SmolLM2.)

    Args:
        largest_K: The largest magnitudes of the inputs.
        dtype: Type of the scales.
    """
    most = largest_K.max()
    if not 0 < float(most) < torch.inf:
        return torch.ones_like(largest_K, dtype=dtype)
    scale_K = largest_K.clamp(min=float(most) * LEAST).sqrt()
    return (scale_K / scale_K.log().mean().exp()).to(dtype)
