"""Refuses a head that does not fit its target, before anything is built."""

# V vocabulary of the target, E hidden size of the head.
from __future__ import annotations

import copy
from typing import Any

import torch

from spectr_export.heads.checkpoint import LAYERS, HeadCheckpoint
from spectr_runtime.adapter.eagle3 import Eagle3Head, Settings
from spectr_runtime.errors import BundleError

MADE_FOR = "Use a head that was made for this target."
EMBEDDINGS = "embed_tokens.weight"


def fit_head(head: HeadCheckpoint, target: Any) -> Settings:
    """Return the settings of a head on a target.

    Args:
        head: The head.
        target: transformers' configuration of the target.

    Raises:
        BundleError: The head was made for a target of other sizes, or its weights are not those that it says.
    """
    size, own = target.hidden_size, EMBEDDINGS in head.weights
    if head.config.hidden_size != size and not own:
        raise BundleError(
            f"The head's hidden size is {head.config.hidden_size} and the target's {size}; without embeddings of its "
            "own it takes the target's.",
            hint=MADE_FOR,
        )
    if head.config.vocab_size != target.vocab_size:
        raise BundleError(
            f"The head was made for a vocabulary of {head.config.vocab_size} tokens; the target's has "
            f"{target.vocab_size}.",
            hint=MADE_FOR,
        )
    layers = _layers(head, target.num_hidden_layers)
    settings = Settings(head.logits, layers, len(layers) * size, **head.choices)
    _refuse_other_weights(head, settings)
    return settings


def _layers(head: HeadCheckpoint, count: int) -> tuple[int, ...]:
    """Return the target's layers whose inputs the head reads; by default those of the paper's code."""
    layers = head.layers or (2, count // 2, count - 3)
    if len({*layers}) != len(layers) or not all(0 <= layer <= count for layer in layers):
        whose = "names" if head.layers else "names no layers, so it reads"
        raise BundleError(
            f"The head {whose} the layers {', '.join(map(str, layers))} of its target; the target has {count} layers, "
            f"and they must be different ones from 0 to {count}.",
            hint=MADE_FOR if head.layers else f"Give them in its config.json as {LAYERS}.",
        )
    return layers


def _refuse_other_weights(head: HeadCheckpoint, settings: Settings) -> None:
    wanted = shapes(head.config, settings)
    found = {name: tuple(tensor.shape) for name, tensor in head.weights.items()}
    missing, strange = sorted(wanted.keys() - found.keys() - {EMBEDDINGS}), sorted(found.keys() - wanted.keys())
    if missing or strange:
        what = f"has no {missing[0]}" if missing else f"has {strange[0]}, which such a head has not"
        raise BundleError(f"{head.folder} {what}.", hint="Get config.json and the weights from one place.")
    for name, shape in found.items():
        if shape != wanted[name]:
            raise BundleError(
                f"{head.folder}: {name} is {shape}; by the head's config.json and its target it is {wanted[name]}.",
                hint=MADE_FOR,
            )


def shapes(config: Any, settings: Settings) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a head's weights by their names."""
    described = copy.deepcopy(config)
    settings.to_config(described)
    with torch.device("meta"):
        head = Eagle3Head(described)
    return {name: tuple(parameter.shape) for name, parameter in head.model.named_parameters()}
