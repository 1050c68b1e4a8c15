"""The original model: loading it where it stands, measuring its sizes, writing its weights into the bundle."""

# Hk key/value heads, T tokens, D head size.
from __future__ import annotations

import copy
import functools
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from spectr_export.checkpoint import check_sizes
from spectr_export.ondemand import Stored, load_on_demand
from spectr_export.precision import FLOAT32, Precision, convert, distinct_weights, layouts
from spectr_export.weights import SAFETENSORS_DTYPES, WEIGHTS, read_places, write_weights
from spectr_runtime.engine import ModelSpec
from spectr_runtime.errors import BundleError
from spectr_runtime.weights import CODES, SCALES, dequantise


def load_config(folder: Path) -> Any:
    """The transformers configuration in a folder.

    Raises:
        BundleError: transformers does not know the architecture, or only through code that comes with the model.
    """
    from transformers import AutoConfig

    path = folder / "config.json"
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:  # transformers' own checks raise what they meet
        raise BundleError(
            f"transformers cannot read {path}: {' '.join(str(error).split()):.200}",
            hint="spectr serves architectures that transformers itself has; it runs no code from a checkpoint.",
        ) from error
    check_sizes(config, path)
    return config


def load_stored(folder: Path) -> Any:
    """The causal LM as transformers has it, in eval mode, its weights mapped from the files and in their type.

    Files of one floating-point type are mapped, so that the model takes memory only while it computes. What
    transformers must put together (experts, say) is in memory, and files of several types are read in float32.

    Raises:
        BundleError: transformers cannot load it, or weights are missing.
    """
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=_stored_dtype(folder),
            attn_implementation="eager",
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise BundleError(
            f"transformers cannot load {folder}: {_first_line(error)}", hint="Check the folder."
        ) from error
    model, report = loaded
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise BundleError(
            f"{folder} lacks {len(missing)} weights of its architecture, among them {missing[0]}.",
            hint="Get the checkpoint again.",
        )
    return model.eval()


def load_original(folder: Path) -> Any:
    """The causal LM as transformers has it, with its own eager attention, computing in float32, in eval mode.

    Args:
        folder: A checkpoint, or a model of a bundle, whose matrices may be quantised.

    Raises:
        BundleError: As ``load_stored``.
    """
    whole = folder / WEIGHTS
    if whole.is_file() and any(name.endswith(CODES) for name in read_places(whole)):
        return load_on_demand(load_config(folder), _stored_weights(whole))
    return in_float32(load_stored(folder))


def in_float32(model: Any) -> Any:
    """A model that computes in float32 with another's weights, which stay where they are."""
    if all(weight.dtype == torch.float32 for weight in model.parameters()):
        return model
    weights = {name: Stored(tuple(weight.shape), weight.float) for name, weight in distinct_weights(model).items()}
    return load_on_demand(model.config, weights)


def longest_text(config: Any) -> int:
    """The longest text in tokens that a model was made for; Bloom's configuration has its own word for it.

    Raises:
        BundleError: The configuration does not say.
    """
    length = getattr(config, "max_position_embeddings", None) or getattr(config, "seq_length", None)
    if length is None:
        raise BundleError(
            f"The {config.model_type} model's config.json has no max_position_embeddings, the longest text in tokens "
            "that it was made for.",
            hint="Add it.",
        )
    return int(length)


def measure_spec(model: Any) -> ModelSpec:
    """Sizes of a model, read off a pass of its own with its own cache.

    Raises:
        BundleError: Its layers keep caches of different shapes, its logits are not as wide as config.json says, or that
            does not say how long a text may be.
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


def save_model(model: Any, folder: Path, precision: Precision = FLOAT32) -> None:
    """Write ``config.json`` and ``model.safetensors``, the weights one by one under transformers' names.

    Args:
        model: A causal LM, its weights in any type.
        folder: Where to write; made if need be.
        precision: How the weights are stored.

    Raises:
        BundleError: A weight does not fit the precision.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.config)
    config.architectures, config.dtype = [type(model).__name__], precision.dtype
    config.save_pretrained(folder)
    write_weights(folder / WEIGHTS, layouts(model, precision), convert(model, precision), {"format": "pt"})


def _stored_weights(path: Path) -> dict[str, Stored]:
    """The weights of a bundle's model, quantised ones decoded when they are read."""
    with safe_open(path, framework="pt") as file:
        stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    weights = {}
    for name, tensor in stored.items():
        if name.endswith(CODES):
            plain = name.removesuffix(CODES)
            scales = stored[plain + SCALES].float()
            shape = (scales.shape[-1], len(tensor))
            weights[plain] = Stored(shape, functools.partial(dequantise, tensor, scales))
        elif not name.endswith(SCALES):
            weights[name] = Stored(tuple(tensor.shape), tensor.float)
    return weights


def _stored_dtype(folder: Path) -> torch.dtype:
    whole, index = folder / WEIGHTS, folder / f"{WEIGHTS}.index.json"
    try:
        files = {WEIGHTS} if whole.is_file() else set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        found = {place.dtype for name in files for place in read_places(folder / name).values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BundleError(f"{folder} has no readable weights: {error}.", hint="Get the checkpoint again.") from error
    floating = [dtype for dtype, name in SAFETENSORS_DTYPES.items() if name in found and dtype.is_floating_point]
    return floating[0] if len(floating) == 1 else torch.float32


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
