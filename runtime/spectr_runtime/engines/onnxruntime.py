"""The ONNX Runtime engine: runs ``model.onnx`` on the CPU, with the cache updated in place."""

# B rows, T tokens fed, M wanted positions, V vocabulary, Hk key/value heads, S slots.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from spectr_runtime.cache import KVCache
from spectr_runtime.contract import CALL_INPUTS, DTYPES, check_call, past_names, present_names
from spectr_runtime.engine import Call, ModelSpec
from spectr_runtime.errors import EngineError

PROVIDERS = ("CPUExecutionProvider",)


class OnnxRuntimeEngine:
    """Runs a model folder of a bundle with ONNX Runtime.

    Past and present of a layer are bound to one address, that of the call's rows in the cache, so that a call writes
    only the slots of its tokens. Logits are written to a buffer that the next call reuses.

    Args:
        folder: Folder with ``model.onnx`` and ``model.safetensors``.
        spec: The model's sizes.
        rows: Rows of the cache.
        capacity: Slots of a row.
        threads: Threads of one call; all physical cores if None.
        lean: Compute with the weights where the file has them, for a check in little memory: nothing is folded, packed
            or fused into a copy, and calls are slower. Quantised weights are then multiplied in the cache's type.
        graph: Another graph on the folder's weights, in place of ``model.onnx``.

    Raises:
        EngineError: ONNX Runtime is not installed, cannot open the graph or lacks the provider.
    """

    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        *,
        rows: int,
        capacity: int,
        threads: int | None = None,
        lean: bool = False,
        graph: bytes | None = None,
    ) -> None:
        self.spec = spec
        self.cache = _allocate(spec, rows, capacity)
        self._session = _open_session(folder, threads, lean, graph)
        self._bindings: dict[tuple[int, int], Any] = {}
        self._logits = torch.empty(0)

    def forward(self, call: Call) -> torch.Tensor:
        """Write the fed tokens' keys and values and return float32 logits [B, M, V], valid until the next call.

        Raises:
            EngineError: The call does not fit the cache, or ONNX Runtime fails.
        """
        check_call(call, self.cache)
        inputs = [
            tensor.contiguous()
            for tensor in (
                call.input_ids_BT,
                call.position_ids_BT,
                call.attention_mask_B1TL,
                call.write_index_B,
                call.logit_index_BM,
            )
        ]
        logits_BMV = self._logits_buffer(*call.logit_index_BM.shape)
        binding = self._binding(call.first_row, len(call.input_ids_BT))
        for name, tensor in zip(CALL_INPUTS, inputs, strict=True):
            binding.bind_input(name, "cpu", 0, _ELEMENT[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        binding.bind_output("logits", "cpu", 0, np.float32, tuple(logits_BMV.shape), logits_BMV.data_ptr())
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's errors share no public base
            raise EngineError(f"ONNX Runtime failed in a call: {_first_line(error)}") from error
        return logits_BMV

    def _logits_buffer(self, rows: int, wanted: int) -> torch.Tensor:
        size = rows * wanted * self.spec.vocabulary
        if len(self._logits) < size:
            self._logits = torch.empty(size)
        return self._logits[:size].view(rows, wanted, self.spec.vocabulary)

    def _binding(self, first_row: int, rows: int) -> Any:
        """The binding of these rows, whose cache addresses never change."""
        key = (first_row, rows)
        if key not in self._bindings:
            binding = self._session.io_binding()
            layers = self.spec.layers
            slices = self.cache.buffer[:, first_row : first_row + rows]
            for past, present, part in zip(past_names(layers), present_names(layers), slices, strict=True):
                place = ("cpu", 0, _ELEMENT[part.dtype], tuple(part.shape), part.data_ptr())
                binding.bind_input(past, *place)
                binding.bind_output(present, *place)
            self._bindings[key] = binding
        return self._bindings[key]


_ELEMENT = {torch.int64: np.int64, torch.bool: np.bool_, torch.float32: np.float32, torch.float16: np.float16}


def _allocate(spec: ModelSpec, rows: int, capacity: int) -> KVCache:
    sizes = (spec.layers, rows, spec.kv_heads, capacity, spec.head_size)
    try:
        return KVCache(*sizes, dtype=DTYPES[spec.dtype], device=torch.device("cpu"))
    except RuntimeError as error:
        raise EngineError(
            f"There is no memory for a cache of {rows} rows of {capacity} slots: {_first_line(error)}",
            hint="Use a smaller batch size, or build the bundle with a smaller --capacity.",
        ) from error


def _open_session(folder: Path, threads: int | None, lean: bool, graph: bytes | None) -> Any:
    path = folder / "model.onnx"
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"ONNX Runtime cannot be imported: {error}.", hint="Install it with `pip install 'spectr[cpu]'`."
        ) from error
    options = onnxruntime.SessionOptions()
    # Long enough to bridge the operators of a call, which small models gain a third from; by default threads spin for
    # tens of milliseconds, and PyTorch, which samples between calls, waits for the cores.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
    if threads is not None:
        options.intra_op_num_threads = threads
    if lean:
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if graph is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    without = ["ConstantFolding"] if lean else []
    try:
        session = onnxruntime.InferenceSession(
            path if graph is None else graph, options, providers=list(PROVIDERS), disabled_optimizers=without
        )
    except Exception as error:  # ONNX Runtime's errors share no public base
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} cannot open {path}: {_first_line(error)}",
            hint="Install spectr's release of it with `pip install 'spectr[cpu]'`, or build the bundle again.",
        ) from error
    check_providers(session.get_providers())
    return session


def check_providers(opened: Sequence[str]) -> None:
    """Refuse a session that fell back to another provider, which ONNX Runtime does without a word.

    Raises:
        EngineError: A provider that was asked for is not among those opened.
    """
    missing = [name for name in PROVIDERS if name not in opened]
    if missing:
        raise EngineError(
            f"ONNX Runtime opened {', '.join(opened) or 'no provider'}; asked for {', '.join(missing)}.",
            hint="Install a build that has it: `pip install 'spectr[cpu]'`.",
        )


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
