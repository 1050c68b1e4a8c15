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
from spectr_runtime.contract import Call, Output, check_call, check_head
from spectr_runtime.engines.buffers import Outputs, allocate_cache, call_inputs
from spectr_runtime.engines.tensorrt_contexts import Contexts, Sizes
from spectr_runtime.engines.tensorrt_library import Log, load_tensorrt, make_logger
from spectr_runtime.errors import EngineError, first_line
from spectr_runtime.files import show_bytes

# Contexts of a profile. A round makes calls of a few sizes, which are others once its texts are 64 tokens longer. Each
# context of TensorRT-RTX keeps kernels that it compiled, so there is one of them.
KEPT = {"tensorrt": 16, "tensorrt-rtx": 1}
NO_ROOM = "Use a GPU with more memory, or compile with a smaller --batch-size."


class TensorRTEngine:
    """Runs a compiled engine with TensorRT or TensorRT-RTX, on the current stream of PyTorch.

    The execution contexts of the engine compute in the same memory, which is right because calls do not overlap. While
    the current stream is captured, a call is recorded and becomes part of a CUDA graph. The graph can be replayed until
    the cache moves, as long as the engine is open.

    Args:
        path: File of the engine.
        compiled: The engine's record.
        spec: The model's sizes.
        rows: Number of rows of the cache.
        capacity: Number of slots that a row needs; the cache has as many as the engine was compiled for.
        tree: Number of tokens of the largest draft tree, its root among them.
        device: A CUDA device, as torch names it.

    Attributes:
        capturable: See ``Engine``. False for TensorRT-RTX, which replaces the kernels of a shape by faster ones while
            calls run, as a graph would not, and can only record engines that were compiled to be recorded.

    Raises:
        EngineError: The engine is too small for these rows, slots or trees, or TensorRT cannot open it.
    """

    def __init__(
        self, path: Path, compiled: CompiledEngine, spec: ModelSpec, *, rows: int, capacity: int, tree: int, device: str
    ) -> None:
        check_size(compiled, rows, capacity, tree)
        self.spec = spec
        self.capturable = compiled.key.flavour == "tensorrt"
        self._profiles = compiled.profiles
        self._log = Log()
        self._trt = load_tensorrt(compiled.key.flavour)
        self._logger = make_logger(self._trt, self._log)
        resolved = torch.device(device)
        torch.cuda.empty_cache()  # TensorRT does not find memory that PyTorch keeps for itself
        with torch.cuda.device(resolved):
            self._engine = self._deserialize(path, streaming=compiled.weight_streaming)
        self._memory = _allocate(self._engine.device_memory_size_v2, resolved)
        self.cache = allocate_cache(spec, rows, compiled.capacity, resolved, grows=False)
        self._outputs = Outputs(spec, resolved)
        self._contexts = Contexts(self.cache, spec.layers, KEPT[compiled.key.flavour])

    def forward(self, call: Call) -> torch.Tensor:
        """Write the fed tokens' keys and values and return float32 logits [B, M, V], valid until the next call.

        Raises:
            EngineError: As for ``run``.
        """
        return self.run(call).logits_BMV

    def run(self, call: Call) -> Output:
        """Contract of ``Engine.run``.

        Raises:
            EngineError: The call does not fit the cache, the model or any profile, there is no memory for it, it is
                recorded before one of its sizes has run, or TensorRT fails.
        """
        check_call(call, self.cache)
        check_head(call.head, self.spec, *call.input_ids_BT.shape)
        (rows, tokens), wanted = call.input_ids_BT.shape, call.logit_index_BM.shape[-1]
        sizes = {"B": rows, "T": tokens, "L": call.attention_mask_B1TL.shape[-1], "M": wanted}
        profile = choose_profile(self._profiles, sizes)
        output = self._enqueue(call, profile, tuple(sizes.values()))
        if output is None:
            raise EngineError(f"TensorRT failed in a call of {sizes}: {self._log.error}")
        return output

    def _enqueue(self, call: Call, profile: int, sizes: Sizes) -> Output | None:
        """Run a call on the current stream and return its output; None if TensorRT fails."""
        inputs, output = call_inputs(call), self._outputs.of(call)
        stream = torch.cuda.current_stream(self.cache.device).cuda_stream
        if torch.cuda.is_current_stream_capturing():
            return self._contexts.record(profile, sizes, call, inputs, output).enqueue(inputs, stream)
        context = self._contexts.take(profile, sizes, inputs, self._make_context)
        context.bind(call, inputs, output)
        if not context.enqueue(stream):
            return None
        self._contexts.give_back(profile, sizes, context)
        return output

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

    def _make_context(self, profile: int) -> Any:
        """Return an execution context for the profile of an index, which computes in the memory of the engine.

        Raises:
            EngineError: There is no memory for it.
        """
        with torch.cuda.device(self.cache.device):
            stream = torch.cuda.current_stream()
            context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
            if context is None or not context.set_optimization_profile_async(profile, stream.cuda_stream):
                name = self._profiles[profile].name
                raise EngineError(f"TensorRT has no room to run profile {name}: {self._log.error}", hint=NO_ROOM)
            context.set_device_memory(self._memory.data_ptr(), len(self._memory))
            stream.synchronize()
        return context


def _allocate(size: int, device: torch.device) -> torch.Tensor:
    """Return memory of so many bytes to compute in.

    Raises:
        EngineError: There is no such memory.
    """
    try:
        return torch.empty(size, dtype=torch.uint8, device=device)
    except RuntimeError as error:
        reason = first_line(error)
        raise EngineError(
            f"There is no memory for the {show_bytes(size)} that TensorRT computes in: {reason}", hint=NO_ROOM
        ) from error


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
