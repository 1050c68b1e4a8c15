"""What the linear layers of a model are given: the size of its largest number, which fp8 has to reach."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from spectr_export.checks.quality import nats_per_token


def measure_inputs(model: Any, names: Iterable[str], ids: Sequence[int]) -> dict[str, float]:
    """Read a text and keep the largest magnitude that each layer multiplies.

    Args:
        model: A causal LM in eval mode.
        names: Names of the layers' matrices.
        ids: The text's tokens.

    Returns:
        The largest magnitude by the names, for layers that share their input the same.
    """
    largest = dict.fromkeys(names, 0.0)

    def keep(name: str, _layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        largest[name] = max(largest[name], float(inputs[0].abs().max()))

    with contextlib.ExitStack() as hooks:
        for name in largest:
            layer = model.get_submodule(name.removesuffix(".weight"))
            hooks.enter_context(layer.register_forward_pre_hook(functools.partial(keep, name)))
        nats_per_token(model, ids)
    return largest
