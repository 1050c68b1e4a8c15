"""The TensorRT engine: runs a compiled engine of the bundle on a GPU and updates the cache in place.

TensorRT and TensorRT-RTX have the same Python API, so one class serves both.
"""

# B rows, T tokens fed, L attention length, M columns whose logits are wanted, V vocabulary.
from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from spectr_runtime.bundle import ModelSpec
from spectr_runtime.bundle.compiled import CompiledEngine, choose_profile
from spectr_runtime.contract import Call, Output, check_call, check_head, past_names, present_names
from spectr_runtime.engines.buffers import Outputs, allocate_cache, call_inputs, named
from spectr_runtime.engines.tensorrt_library import Log, load_tensorrt, make_logger
from spectr_runtime.errors import EngineError


class TensorRTEngine:
    """Runs a compiled engine with TensorRT or TensorRT-RTX, on the current stream of PyTorch.

    The cache inputs and outputs of a layer are bound to the same address, that of the call's rows in the cache, so
    that TensorRT writes the new keys and values into it. Each profile of the engine has an execution context of its
    own, because changing the profile of a context would take time.

    Args:
        path: File of the engine.
        compiled: The engine's record.
        spec: The model's sizes.
        rows: Number of rows of the cache.
        capacity: Number of slots that a row needs; the cache has as many as the engine was compiled for.
        tree: Number of tokens of the largest draft tree, its root among them.
        device: A CUDA device, as torch names it.

    Raises:
        EngineError: The engine is too small for these rows, slots or trees, or TensorRT cannot open it.
    """

    def __init__(
        self, path: Path, compiled: CompiledEngine, spec: ModelSpec, *, rows: int, capacity: int, tree: int, device: str
    ) -> None:
        check_size(compiled, rows, capacity, tree)
        self.spec = spec
        self._profiles = compiled.profiles
        self._log = Log()
        self._trt = load_tensorrt(compiled.key.flavour)
        self._logger = make_logger(self._trt, self._log)
        resolved = torch.device(device)
        torch.cuda.empty_cache()  # TensorRT does not find memory that PyTorch keeps for itself
        with torch.cuda.device(resolved):
            self._engine = self._deserialize(path, streaming=compiled.weight_streaming)
            self._contexts = [self._context(profile) for profile in range(len(compiled.profiles))]
        self.cache = allocate_cache(spec, rows, compiled.capacity, resolved, grows=False)
        self._outputs = Outputs(spec, resolved)

    def forward(self, call: Call) -> torch.Tensor:
        """Write the fed tokens' keys and values and return float32 logits [B, M, V], valid until the next call.

        Raises:
            EngineError: As for ``run``.
        """
        return self.run(call).logits_BMV

    def run(self, call: Call) -> Output:
        """Contract of ``Engine.run``.

        Raises:
            EngineError: The call does not fit the cache, the model or any profile, or TensorRT fails.
        """
        check_call(call, self.cache)
        check_head(call.head, self.spec, *call.input_ids_BT.shape)
        (rows, tokens), wanted = call.input_ids_BT.shape, call.logit_index_BM.shape[-1]
        sizes = {"B": rows, "T": tokens, "L": call.attention_mask_B1TL.shape[-1], "M": wanted}
        context = self._contexts[choose_profile(self._profiles, sizes)]
        inputs = call_inputs(call)
        for name, tensor in inputs.items():
            context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        self._bind_cache(context, call.first_row, rows)
        output = self._outputs.of(call)
        for name, tensor in named(output).items():
            context.set_tensor_address(name, tensor.data_ptr())
        if not context.execute_async_v3(torch.cuda.current_stream(self.cache.device).cuda_stream):
            raise EngineError(f"TensorRT failed in a call of {sizes}: {self._log.error}")
        return output

    def _bind_cache(self, context: Any, first_row: int, rows: int) -> None:
        layers, parts = self.spec.layers, self.cache.parts(first_row, rows)
        for past, present, part in zip(past_names(layers), present_names(layers), parts, strict=True):
            context.set_input_shape(past, tuple(part.shape))
            context.set_tensor_address(past, part.data_ptr())
            context.set_tensor_address(present, part.data_ptr())

    def _deserialize(self, path: Path, *, streaming: bool) -> Any:
        engine = self._trt.Runtime(self._logger).deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise EngineError(
                f"TensorRT cannot open {path.name}: {self._log.error}",
                hint="Check the driver and the memory of the GPU, or compile the bundle again on this machine.",
            )
        if streaming:
            engine.weight_streaming_budget_v2 = engine.get_weight_streaming_automatic_budget()
        return engine

    def _context(self, profile: int) -> Any:
        """Return an execution context for the profile of an index."""
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.ON_PROFILE_CHANGE)
        stream = torch.cuda.current_stream()
        if context is None or not context.set_optimization_profile_async(profile, stream.cuda_stream):
            raise EngineError(
                f"TensorRT has no room to run profile {self._profiles[profile].name}: {self._log.error}",
                hint="Use a GPU with more memory, or compile with a smaller --batch-size.",
            )
        stream.synchronize()
        return context


def check_size(compiled: CompiledEngine, rows: int, capacity: int, tree: int) -> None:
    """Check that an engine is large enough.

    Args:
        compiled: The engine's record.
        rows: Number of rows that are needed.
        capacity: Number of slots that a row needs.
        tree: Number of tokens of the largest draft tree, its root among them.

    Raises:
        EngineError: The engine takes fewer rows or smaller trees, or its rows have fewer slots.
    """
    if rows > compiled.rows:
        raise EngineError(
            f"The engine was compiled for up to {compiled.rows} rows; {rows} are asked for.",
            hint=f"Use --batch-size {compiled.rows}, or compile the bundle with --batch-size {rows}.",
        )
    if capacity > compiled.capacity:
        raise EngineError(
            f"A row of the engine has {compiled.capacity} slots; bundle and plan need {capacity}.",
            hint="Draft fewer tokens per round, or compile the bundle with a larger --tree-tokens.",
        )
    if tree > compiled.tree_tokens:
        raise EngineError(
            f"The engine was compiled for trees of up to {compiled.tree_tokens} tokens; the plan has one of {tree}.",
            hint=f"Use --plan plain or a fixed plan of fewer drafts, or compile the bundle with --tree-tokens {tree}.",
        )
