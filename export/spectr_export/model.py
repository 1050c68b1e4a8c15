"""The original model: loading it, measuring its sizes, writing its one set of weights into the bundle."""

# Hk key/value heads, T tokens, D head size.
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spectr_export.weights import WEIGHTS
from spectr_runtime.engine import ModelSpec
from spectr_runtime.errors import BundleError


def load_config(folder: Path) -> Any:
    """The transformers configuration in a folder.

    Raises:
        BundleError: transformers does not know the architecture, or only through code that comes with the model.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise BundleError(
            f"transformers cannot read {folder / 'config.json'}: {_first_line(error)}",
            hint="spectr serves architectures that transformers itself has; it runs no code from a checkpoint.",
        ) from error


def load_original(folder: Path) -> Any:
    """The causal LM as transformers has it, with its own eager attention, in float32 and eval mode.

    Raises:
        BundleError: transformers cannot load it, or weights are missing.
    """
    from transformers import AutoModelForCausalLM

    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32,
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


def measure_spec(model: Any) -> ModelSpec:
    """Sizes of a model, read off a pass of its own with its own cache.

    Raises:
        BundleError: Its layers keep caches of different shapes, or its logits are not as wide as config.json says.
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
        max_positions=model.config.max_position_embeddings,
    )


def save_model(model: Any, folder: Path) -> None:
    """Write ``config.json`` and ``model.safetensors`` in one piece, as transformers writes them.

    Raises:
        BundleError: transformers splits the weights.
    """
    from transformers import GenerationConfig

    # Many published generation settings do not pass transformers' own check when saved, and nothing reads them here.
    model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
    model.save_pretrained(folder, max_shard_size="1000TB", save_original_format=False)
    (folder / "generation_config.json").unlink(missing_ok=True)
    if not (folder / WEIGHTS).is_file():
        raise BundleError(f"transformers did not write {WEIGHTS} in one piece.", hint="Use another model.")


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
