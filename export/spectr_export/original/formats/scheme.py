"""Which quantised format a checkpoint is in, by the ``quantization_config`` of its configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from spectr_export.original.formats.blocks import QuantisedMatrix
from spectr_export.original.formats.compressed import read_compressed
from spectr_export.original.formats.finegrained import read_finegrained
from spectr_export.original.formats.packed import read_awq, read_gptq
from spectr_export.original.settings import read_settings
from spectr_runtime.bundle.layout import CONFIG
from spectr_runtime.errors import BundleError

# The keys under which a configuration has the settings of a format; the second is compressed-tensors' older one.
KEYS = ("quantization_config", "compression_config")
Tensors = Mapping[str, torch.Tensor]
Reader = Callable[[Tensors, Mapping[str, Any], Any], dict[str, torch.Tensor | QuantisedMatrix]]
# By the names of formats in ``quant_method``.
READERS: Mapping[str, Reader] = {
    "compressed-tensors": read_compressed,
    "gptq": read_gptq,
    "awq": read_awq,
    "fp8": read_finegrained,
}


def quantisation_settings(folder: Path) -> Mapping[str, Any] | None:
    """Return the settings by which a checkpoint in safetensors is quantised; None if it is not.

    Raises:
        BundleError: They are not an object, or of a format that is not read.
    """
    config = read_settings(folder / CONFIG)
    settings = next((config[key] for key in KEYS if config.get(key) is not None), None)
    if settings is None:
        return None
    method = settings.get("quant_method") if isinstance(settings, dict) else settings
    if method not in READERS:
        raise BundleError(
            f"{folder} has weights quantised by {method!r:.80}, which spectr does not read; read are "
            f"{', '.join(READERS)} and GGUF files.",
            hint="Use the checkpoint that it was quantised from, or one in a format that is read.",
        )
    assert isinstance(settings, dict)
    return settings


def unpack_tensors(
    tensors: Tensors, settings: Mapping[str, Any] | None, model: Any
) -> Mapping[str, torch.Tensor | QuantisedMatrix]:
    """Return the tensors of a checkpoint, with a matrix in place of what a quantised layer has.

    Args:
        tensors: The tensors by their names in the checkpoint.
        settings: The result of ``quantisation_settings``.
        model: The causal LM on the meta device.

    Raises:
        BundleError: A layer is quantised in a way that is not read.
        EngineError: The format's own package is not installed.
    """
    return tensors if settings is None else READERS[settings["quant_method"]](tensors, settings, model)
