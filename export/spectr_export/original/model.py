"""Loads the original model of a checkpoint, or a model of a bundle, and measures its sizes."""

# Hk key/value heads, T tokens, D head size.
from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from spectr_export.original.checkpoint import check_sizes
from spectr_export.original.configuration.reach import longest_text
from spectr_export.original.configuration.rotary import check_reading, check_rotary
from spectr_export.original.conversion import read_checkpoint
from spectr_export.original.formats.scheme import KEYS
from spectr_export.original.ondemand import LazyWeight, load_on_demand
from spectr_export.original.settings import CORRECT, read_settings
from spectr_export.weights import read_header
from spectr_runtime.adapter.rounding import read_roundings, round_inputs
from spectr_runtime.bundle import ModelSpec
from spectr_runtime.bundle.layout import CONFIG, WEIGHTS
from spectr_runtime.bundle.stacks import is_up, stack_shape
from spectr_runtime.bundle.weights import (
    CODES,
    MINIMA,
    SCALES,
    layer_shape,
    read_expert,
    read_layer,
    read_stored,
)
from spectr_runtime.errors import BundleError, first_line


def load_config(folder: Path) -> Any:
    """Return the transformers configuration in a folder, without the settings of a quantised checkpoint.

    Raises:
        BundleError: The file is malformed, or transformers does not know the architecture, or would need code that
            comes with the model.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    path = folder / CONFIG
    settings = read_settings(path)
    known = str(settings.get("model_type")) in CONFIG_MAPPING
    check_rotary(settings, path)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers' own checks raise errors of many types
        raise BundleError(
            f"transformers cannot read {path}: {' '.join(str(error).split()):.200}",
            hint=CORRECT
            if known
            else "spectr serves architectures that transformers itself has; it runs no code from a checkpoint.",
        ) from error
    check_sizes(config, path)
    check_reading(config, path)
    for key in KEYS:
        if hasattr(config, key):
            delattr(config, key)  # transformers would take the model's weights for codes
    return config


@dataclasses.dataclass(frozen=True, slots=True)
class Original:
    """The model of a checkpoint.

    Attributes:
        model: transformers' own causal LM, with eager attention, computing in float32, in eval mode.
        weights: Its weights by transformers' names, each tied group once, in the checkpoint's types.
    """

    model: Any
    weights: Mapping[str, LazyWeight]


def outline(config: Any) -> Any:
    """Return the causal LM on the meta device, which holds shapes and no data.

    Raises:
        BundleError: transformers cannot make a model of the configuration.
    """
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            # Some experts are implemented in half precision only. The types that are stored follow from the storage
            # plan.
            return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)  # type: ignore[no-untyped-call]
    except Exception as error:  # what a field that nobody checked leads to has many types
        raise BundleError(
            f"transformers cannot make a {config.model_type} model of config.json: {type(error).__name__}: "
            f"{first_line(error)}.",
            hint=CORRECT,
        ) from error


def load_stored(folder: Path) -> Original:
    """Load the model of a checkpoint without its weights, which stay in the files and in their types until needed.

    The matrices take memory only while the model computes with them.

    Raises:
        BundleError: transformers cannot load it, or weights are missing.
    """
    config = load_config(folder)
    try:
        outlined = outline(config)
        weights = read_checkpoint(folder, outlined)
        _refuse_other_weights(weights, outlined, folder)
        model = load_on_demand(config, weights)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BundleError(
            f"transformers cannot load {folder}: {first_line(error)}", hint="Check the folder."
        ) from error
    # A tied weight has several names, and the checkpoint may use another one than the model's own first name.
    aliases = model.named_parameters(remove_duplicate=False)
    names = {id(tensor): name for name, tensor in (*reversed(list(aliases)), *model.named_buffers())}
    stored = {names[id(model.get_parameter_or_buffer(name))]: weight for name, weight in weights.items()}
    return Original(model, stored)


def _refuse_other_weights(weights: Mapping[str, LazyWeight], outlined: Any, folder: Path) -> None:
    """Refuse weights of other shapes than the configuration makes, and an output layer that is not there.

    Args:
        weights: The weights of the checkpoint.
        outlined: The model that the configuration makes, without its weights.
        folder: The checkpoint.

    Raises:
        BundleError: A shape differs, or the output layer is missing.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in outlined.state_dict().items()}
    for name, weight in weights.items():
        if weight.shape != wanted[name]:
            raise BundleError(
                f"{folder}: {name} is {weight.shape} in the weights; by config.json it is {wanted[name]}.",
                hint=_remedy(weight.shape, wanted[name], outlined.config),
            )
    head = next((name for name, module in outlined.named_modules() if module is outlined.get_output_embeddings()), "")
    if f"{head}.weight" in wanted.keys() - weights.keys() and f"{head}.weight" not in outlined.all_tied_weights_keys:
        raise BundleError(
            f"{folder} has no {head}.weight, the layer that gives the logits, and its config.json says that the "
            "embedding does not take its place (tie_word_embeddings is false).",
            hint="Save the causal LM and not its base model alone, or set tie_word_embeddings to true if it is tied.",
        )


def _remedy(found: tuple[int, ...], wanted: tuple[int, ...], config: Any) -> str:
    if wanted[:1] == (config.vocab_size,) and found[1:] == wanted[1:]:
        return f"Set vocab_size to {found[0]} in config.json, or get the weights that belong to it."
    return "Get config.json and the weights from one place: they are of different models."


def load_original(folder: Path, *, rounding: bool = True) -> Any:
    """Load transformers' own causal LM, with eager attention, computing in float32, in eval mode.

    Args:
        folder: A checkpoint, or a model of a bundle, whose matrices may be quantised.
        rounding: Whether a model in fp8 or int8 rounds the inputs of its layers.

    Raises:
        BundleError: transformers cannot load it, or weights are missing.
    """
    whole = folder / WEIGHTS
    if whole.is_file() and any(name.endswith(CODES) for name in read_header(whole)):
        model = load_on_demand(load_config(folder), _stored_weights(whole))
        round_inputs(model, read_roundings(whole, rounding=rounding))
        return model
    return load_stored(folder).model


def measure_spec(model: Any) -> ModelSpec:
    """Measure the sizes of a model by one forward pass with its own cache.

    Raises:
        BundleError: The layers keep caches of different shapes, the logits are not as wide as config.json says, or
            config.json does not say how long a text may be.
    """
    with torch.inference_mode():
        output = model(input_ids=torch.tensor([[0, 1]]), use_cache=True)
    shapes = {tuple(part.shape) for layer in output.past_key_values.layers for part in (layer.keys, layer.values)}
    if len(shapes) != 1:
        raise BundleError(
            f"The {model.config.model_type} model keeps keys and values of {len(shapes)} shapes: {sorted(shapes)}.",
            hint="Use a model whose layers are alike.",
        )
    ((_, kv_heads, _, head_size),) = shapes
    if output.logits.shape[-1] != model.config.vocab_size:
        raise BundleError(
            f"The model's logits are {output.logits.shape[-1]} wide; config.json says {model.config.vocab_size}.",
            hint="Get the checkpoint again.",
        )
    return ModelSpec(
        architecture=model.config.model_type,
        layers=len(output.past_key_values.layers),
        kv_heads=kv_heads,
        head_size=head_size,
        vocabulary=output.logits.shape[-1],
        max_positions=longest_text(model.config),
    )


def _stored_weights(path: Path) -> dict[str, LazyWeight]:
    """Return the weights of a bundle's model; quantised weights are dequantised when they are read."""
    stored, order = read_stored(path)
    weights = {}
    for name, tensor in stored.items():
        if name.endswith(CODES):
            plain = name.removesuffix(CODES)
            scales, minima = stored[plain + SCALES].float(), stored.get(plain + MINIMA)
            if tensor.dim() == 2:
                read = functools.partial(read_layer, tensor, scales, minima, inputs_first=order.layers)
                weights[plain] = LazyWeight(torch.float32, layer_shape(tensor, scales, order), [read])
            else:
                weights[plain] = _stored_stack(tensor, scales, up=is_up(plain), inputs_first=order.experts)
        elif not name.endswith((SCALES, MINIMA)):
            weights[name] = LazyWeight.of(tensor)
    return weights


def _stored_stack(codes: torch.Tensor, scales: torch.Tensor, *, up: bool, inputs_first: bool) -> LazyWeight:
    def read(number: int) -> torch.Tensor:
        return read_expert(codes, scales, number, up=up, inputs_first=inputs_first)[None]

    shape = stack_shape(codes, scales, up=up, inputs_first=inputs_first)
    return LazyWeight(torch.float32, shape, [functools.partial(read, number) for number in range(shape[0])])
