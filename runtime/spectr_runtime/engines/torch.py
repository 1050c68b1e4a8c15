"""The reference engine: PyTorch runs the contract's module eagerly, on the CPU or a GPU."""

# B rows, M columns whose logits are wanted, V vocabulary.
from __future__ import annotations

from pathlib import Path

import torch

from spectr_runtime.adapter.model import load_contract_model
from spectr_runtime.adapter.rounding import read_roundings, round_inputs
from spectr_runtime.bundle import ModelSpec
from spectr_runtime.bundle.layout import WEIGHTS
from spectr_runtime.contract import Call, check_call
from spectr_runtime.engines.buffers import allocate_cache
from spectr_runtime.errors import EngineError, first_line


class TorchEngine:
    """Runs a model folder of a bundle with transformers and PyTorch. The cache grows with the texts.

    Args:
        folder: The folder with ``config.json`` and ``model.safetensors``.
        spec: The model's sizes.
        rows: Number of rows of the cache.
        capacity: The most slots of a row.
        device: A device of PyTorch, for instance ``cpu`` or ``cuda:0``.

    Raises:
        EngineError: The device does not exist or has too little memory.
        BundleError: The model cannot be loaded.
    """

    def __init__(self, folder: Path, spec: ModelSpec, *, rows: int, capacity: int, device: str = "cpu") -> None:
        self.spec = spec
        try:
            resolved = torch.device(device)
            self.cache = allocate_cache(spec, rows, capacity, resolved, grows=True)
            self._model = load_contract_model(folder, dtype=spec.dtype, device=resolved)
            round_inputs(self._model.model, read_roundings(folder / WEIGHTS, device=resolved))
        except (RuntimeError, AssertionError) as error:
            reason = first_line(error)
            raise EngineError(
                f"PyTorch cannot hold {folder.name} with {rows} rows on {device!r}: {reason}",
                hint="Name a device that torch.device knows, or use fewer rows.",
            ) from error

    @torch.inference_mode()
    def forward(self, call: Call) -> torch.Tensor:
        """Write the fed tokens' keys and values and return float32 logits [B, M, V].

        Raises:
            EngineError: The call does not fit the cache, or PyTorch fails.
        """
        check_call(call, self.cache)
        rows = call.first_row, len(call.input_ids_BT)
        self.cache.hold(*rows, call.attention_mask_B1TL.shape[-1])
        try:
            logits_BMV, _ = self._model(
                call.input_ids_BT,
                call.position_ids_BT,
                call.attention_mask_B1TL,
                call.write_index_B,
                call.logit_index_BM,
                self.cache.parts(*rows),
            )
        except (RuntimeError, IndexError) as error:
            raise EngineError(f"PyTorch failed in a call: {first_line(error)}") from error
        result: torch.Tensor = logits_BMV
        return result
