"""Reads a published head of EAGLE-3: its configuration, its weights and the tokens that it scores.

There are two layouts. That of ``speculators`` says in its config.json what it is::

    {"speculators_model_type": "eagle3", "draft_vocab_size": 32000, "norm_before_residual": true,
     "transformer_layer_config": {"model_type": "llama", ...}, "eagle_aux_hidden_state_layer_ids": [2, 18, 33],
     "speculators_config": {"algorithm": "eagle3", ...}}

The original one, of the method's authors, has the configuration of a Llama model with ``draft_vocab_size`` in it. Its
layer is called ``midlayer`` instead of ``layers.0``, and its weights may be a pickle file, of which tensors alone are
read. In both, ``d2t`` names the tokens that the head scores, as ``original.tokens.chosen`` describes.
"""

# N tokens that the head scores, V vocabulary of the target, E hidden size.
from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spectr_export.original.checkpoint import INDEX, weight_files
from spectr_export.original.configuration.overrides import Override
from spectr_export.original.model import load_config
from spectr_export.original.scratch import Scratch
from spectr_export.original.settings import CORRECT, read_settings
from spectr_export.original.source import PICKLE
from spectr_export.original.tokens.chosen import D2T, T2D, chosen_tokens
from spectr_runtime.bundle import Role
from spectr_runtime.bundle.layout import CONFIG, WEIGHTS
from spectr_runtime.errors import BundleError, UsageError, first_line

KIND = "speculators_model_type"
LAYER = "transformer_layer_config"
LAYERS = "eagle_aux_hidden_state_layer_ids"
DRAFT_SIZE = "draft_vocab_size"
# Choices of a checkpoint that are settings of the adapter's under the same names.
CHOICES = ("norm_before_residual", "norm_before_fc", "fc_norm", "norm_output")
# Layers of transformers that can be made a head, as in speculators.
FAMILIES = ("llama", "qwen3")
# Tensors that are read for themselves, or are not needed to draft.
OTHERS = (D2T, T2D, "verifier_lm_head.weight", "verifier_norm.weight")
OTHER = "Use a published head of EAGLE-3, or a model of its own as draft."


@dataclasses.dataclass(frozen=True, slots=True)
class HeadCheckpoint:
    """A head as it was published.

    Attributes:
        folder: The checkpoint.
        config: transformers' configuration of its layer; its vocabulary is the target's.
        logits: Number of tokens that it scores.
        layers: The target's layers whose inputs it reads; None if the checkpoint does not name them.
        choices: Those of ``CHOICES`` that it makes.
        weights: Its weights by the names of ``speculators``.
        tokens_N: The target's ids of the tokens that it scores; int64. None for all tokens in order.
    """

    folder: Path
    config: Any
    logits: int
    layers: tuple[int, ...] | None
    choices: Mapping[str, bool]
    weights: Mapping[str, torch.Tensor]
    tokens_N: torch.Tensor | None


def is_head(folder: Path) -> bool:
    """Return whether a checkpoint is a head, whatever its kind, and not a model of its own."""
    if not (folder / CONFIG).is_file():
        return False
    settings = read_settings(folder / CONFIG)
    names = settings.get("architectures")
    named = isinstance(names, list) and any("eagle" in str(name).lower() for name in names)
    return named or KIND in settings or DRAFT_SIZE in settings


def take_head(
    folders: dict[Role, Path], overrides: dict[Role, list[Override]], scratch: Scratch
) -> HeadCheckpoint | None:
    """Take a draft that is a head from among the models of a build, and return it; None if it is none.

    Args:
        folders: The checkpoints of the models.
        overrides: What is overridden in the configuration of each.
        scratch: Takes the configuration of the head's layer.

    Raises:
        UsageError: The head's configuration was to be overridden.
        BundleError: As for ``read_head``.
    """
    if "draft" not in folders or folders["draft"] == folders["target"] or not is_head(folders["draft"]):
        return None
    own = [one for one in overrides.pop("draft") if one.role == "draft"]
    if own:
        raise UsageError(
            f"--config draft.{own[0]}: the draft is a head, whose config.json is taken as it is.",
            hint="Change its config.json.",
        )
    return read_head(folders.pop("draft"), scratch)


def read_head(folder: Path, scratch: Scratch) -> HeadCheckpoint:
    """Read a head; its weights stay in their file until they are needed, unless it is a pickle file.

    Args:
        folder: The checkpoint.
        scratch: Takes the configuration of the head's layer.

    Raises:
        BundleError: It is of another kind, or its configuration or its weights are malformed.
    """
    settings, path = read_settings(folder / CONFIG), folder / CONFIG
    _refuse_other_kinds(settings, path)
    layer = _layer_settings(settings, path)
    made = scratch.stand_in(folder)
    (made / CONFIG).write_text(json.dumps(layer), encoding="utf-8")
    config = load_config(made)
    tensors = {_name(name): tensor for name, tensor in _read_tensors(folder).items()}
    logits = settings.get(DRAFT_SIZE) or config.vocab_size
    if type(logits) is not int or not 1 <= logits <= config.vocab_size:
        raise BundleError(
            f"{path} gives {DRAFT_SIZE} as {logits!r:.80}; it must be from 1 to vocab_size, {config.vocab_size}.",
            hint=CORRECT,
        )
    return HeadCheckpoint(
        folder=folder,
        config=config,
        logits=logits,
        layers=_layers(settings, path),
        choices={name: bool(settings.get(name)) for name in CHOICES},
        weights={name: tensor for name, tensor in tensors.items() if name not in OTHERS},
        tokens_N=_tokens(tensors, logits, config.vocab_size, folder),
    )


def _refuse_other_kinds(settings: Mapping[str, Any], path: Path) -> None:
    nested = settings.get("speculators_config")
    algorithm = nested.get("algorithm") if isinstance(nested, dict) else None
    for name, found in ((KIND, settings.get(KIND)), ("algorithm", algorithm)):
        if found not in (None, "eagle3"):
            raise BundleError(f"{path} gives {name} as {found!r:.80}; spectr serves eagle3.", hint=OTHER)
    if settings.get(KIND) is None and DRAFT_SIZE not in settings:
        raise BundleError(
            f"{path} has neither {KIND} nor {DRAFT_SIZE}, so it is no head of EAGLE-3; its architectures are "
            f"{settings.get('architectures')!r:.80}.",
            hint=OTHER,
        )
    nested = settings.get("eagle_config")
    if isinstance(nested, dict) and nested.get("use_aux_hidden_state") is False:
        raise BundleError(f"{path} gives use_aux_hidden_state as false; spectr serves heads that use it.", hint=OTHER)


def _layer_settings(settings: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the configuration of the head's layer, as that of a model with one layer."""
    found = settings.get(LAYER) if KIND in settings else settings
    if not isinstance(found, dict):
        raise BundleError(f"{path} gives {LAYER} as {found!r:.80}; it must be an object.", hint=CORRECT)
    layer = {name: value for name, value in found.items() if name not in ("architectures", "auto_map", "eagle_config")}
    family, count = layer.setdefault("model_type", "llama"), layer.get("num_hidden_layers", 1)
    if family not in FAMILIES:
        raise BundleError(
            f"{path}: the head's layer is of type {family!r:.80}; spectr serves {' and '.join(FAMILIES)}.", hint=OTHER
        )
    if count != 1:
        raise BundleError(f"{path}: the head has {count!r:.80} layers; spectr serves heads of one.", hint=OTHER)
    return {**layer, "num_hidden_layers": 1, "tie_word_embeddings": False}


def _layers(settings: Mapping[str, Any], path: Path) -> tuple[int, ...] | None:
    nested = settings.get("eagle_config")
    found = settings.get(LAYERS) or (nested.get(LAYERS) if isinstance(nested, dict) else None)
    if found is None:
        return None
    if not isinstance(found, list) or not found or not all(type(one) is int for one in found):
        raise BundleError(f"{path} gives {LAYERS} as {found!r:.80}; it must be a list of layers.", hint=CORRECT)
    return tuple(found)


def _name(name: str) -> str:
    """Return the name in ``speculators`` of a tensor of either layout."""
    plain = name.removeprefix("model.")
    return f"layers.0.{plain.removeprefix('midlayer.')}" if plain.startswith("midlayer.") else plain


def _read_tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
            return _unpickled(folder)
        tensors: dict[str, torch.Tensor] = {}
        for path in weight_files(folder):
            with safe_open(path, framework="pt") as file:
                tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors
    except (OSError, SafetensorError) as error:
        raise BundleError(f"The weights in {folder} cannot be read: {first_line(error)}", hint=CORRECT) from error


def _unpickled(folder: Path) -> dict[str, torch.Tensor]:
    """Read a pickle file; of its code, nothing but what makes tensors is run."""
    path = folder / PICKLE
    if not path.is_file():
        raise BundleError(f"{folder} has neither {WEIGHTS} nor {PICKLE}.", hint="Get the checkpoint again.")
    try:
        # With ``weights_only`` nothing is called but what makes tensors, and other content is an error.
        found = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except Exception as error:  # what a malformed file leads to has many types
        raise BundleError(f"{path} cannot be read as tensors alone: {first_line(error)}", hint=CORRECT) from error
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise BundleError(f"{path} does not hold tensors by their names.", hint=CORRECT)
    return found


def _tokens(tensors: Mapping[str, torch.Tensor], logits: int, size: int, folder: Path) -> torch.Tensor | None:
    """Return the target's ids of the tokens that a head scores; None for all tokens in order."""
    if D2T in tensors:
        return chosen_tokens(tensors, logits, size, folder)
    if logits != size:
        raise BundleError(
            f"{folder} has no {D2T}, which says for which of {size} tokens its {logits} logits are.", hint=CORRECT
        )
    return None
