"""The reference engine: PyTorch runs the contract's module eagerly, on the CPU or a GPU."""

# B rows, M columns whose logits are wanted, V vocabulary.
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spectr_runtime.adapter.eagle3 import load_head
from spectr_runtime.adapter.model import load_contract_model
from spectr_runtime.adapter.rounding import read_roundings, round_inputs
from spectr_runtime.bundle import ModelSpec
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.contract import Call, Output, check_call, check_head
from spectr_runtime.engines.buffers import allocate_cache, call_inputs
from spectr_runtime.errors import EngineError, first_line


class TorchEngine:
    """Runs a model folder of a bundle with transformers and PyTorch. The cache grows with the texts.

    Args:
        folder: The folder with ``config.json`` and ``model.safetensors``.
        spec: The model's sizes.
        rows: Number of rows of the cache.
        capacity: The most slots of a row.
        device: A device of PyTorch, for instance ``cpu`` or ``cuda:0``.

    Attributes:
        capturable: See ``Engine``.

    Raises:
        EngineError: The device does not exist or has too little memory.
        BundleError: The model cannot be loaded.
    """

    capturable = True

    def __init__(self, folder: Path, spec: ModelSpec, *, rows: int, capacity: int, device: str = "cpu") -> None:
        self.spec = spec
        try:
            resolved = torch.device(device)
            self.cache = allocate_cache(spec, rows, capacity, resolved, grows=True)
            self._model = _load(folder, spec, resolved)
            round_inputs(self._model.model, read_roundings(folder / WEIGHTS, device=resolved))
        except (RuntimeError, AssertionError) as error:
            reason = first_line(error)
            raise EngineError(
                f"PyTorch cannot hold {folder.name} with {rows} rows on {device!r}: {reason}",
                hint="Name a device that torch.device knows, or use fewer rows.",
            ) from error

    def forward(self, call: Call) -> torch.Tensor:
        """Write the fed tokens' keys and values and return float32 logits [B, M, V].

        Raises:
            EngineError: As for ``run``.
        """
        return self.run(call).logits_BMV

    @torch.inference_mode()
    def run(self, call: Call) -> Output:
        """Contract of ``Engine.run``.

        Raises:
            EngineError: The call does not fit the cache or the model, or PyTorch fails.
        """
        check_call(call, self.cache)
        check_head(call.head, self.spec, *call.input_ids_BT.shape)
        rows = call.first_row, len(call.input_ids_BT)
        self.cache.hold(*rows, call.attention_mask_B1TL.shape[-1])
        inputs = call_inputs(call).values()
        try:
            logits_BMV, *states, _ = self._model(*inputs, self.cache.parts(*rows))
        except (RuntimeError, IndexError) as error:
            raise EngineError(f"PyTorch failed in a call: {first_line(error)}") from error
        return Output(logits_BMV, states[0] if states else None)


def _load(folder: Path, spec: ModelSpec, device: torch.device) -> Any:
    if spec.head is not None:
        return load_head(folder, dtype=spec.dtype, device=device)
    layers = () if spec.features is None else spec.features.layers
    return load_contract_model(folder, dtype=spec.dtype, device=device, features=layers)
