"""The ONNX Runtime engine: runs ``model.onnx`` on the CPU or a CUDA GPU and updates the cache in place."""

# B rows, T tokens fed, L attention length, M columns whose logits are wanted, V vocabulary.
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from spectr_runtime.bundle import ModelSpec
from spectr_runtime.bundle.layout import GRAPH
from spectr_runtime.contract import Call, Output, check_call, check_head, past_names, present_names
from spectr_runtime.engines.attention import with_cpu_attention, without_cuts
from spectr_runtime.engines.buffers import Outputs, allocate_cache, call_inputs, named
from spectr_runtime.engines.integer import with_integer_products
from spectr_runtime.errors import EngineError, UsageError, first_line

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
EXTRAS = {"cpu": "pip install 'spectr[cpu]'", "cuda": "pip uninstall onnxruntime; pip install 'spectr[gpu]'"}
# ``open_engine`` says why the provider is not used.
NO_TENSORRT = (
    "ONNX Runtime's provider for TensorRT is not used: run engines with --backend tensorrt or tensorrt-rtx, which "
    "`spectr-export compile` makes."
)
# The numbers of these types in ONNX's TensorProto.
ELEMENTS = {torch.float32: 1, torch.int64: 7, torch.bool: 9, torch.float16: 10, torch.bfloat16: 16}


class OnnxRuntimeEngine:
    """Runs a model folder of a bundle with ONNX Runtime.

    The cache inputs and outputs of a layer are bound to the same address, that of the call's rows in the cache. A call
    therefore writes only the slots of its tokens and copies nothing. The cache grows with the texts, and the attention
    reads all of its slots. What a call returns is written to memory that the next call reuses.

    Args:
        folder: The folder with ``model.onnx`` and ``model.safetensors``.
        spec: The model's sizes.
        rows: Number of rows of the cache.
        capacity: The most slots of a row.
        device: The device to run on: ``cpu``, ``cuda`` or ``cuda:N``. On CUDA, calls go to PyTorch's current stream.
        threads: Threads of one call; None for as many as there are physical cores.
        lean: Save memory, at the price of slower calls: the weights are used as the file maps them, and none is folded,
            packed or fused into a copy. Quantised weights are then multiplied in the cache's type. The graph stays as
            it is, with products of int8 and with cuts of the cache, which has all slots at once.
        graph: Another graph on the weights of the folder, which replaces ``model.onnx``.

    Attributes:
        capturable: See ``Engine``. A session keeps the stream that it was opened on; captures have their own.

    Raises:
        UsageError: ONNX Runtime does not run on the device.
        EngineError: ONNX Runtime is not installed, cannot open the graph or lacks the provider.
    """

    capturable = False

    def __init__(
        self,
        folder: Path,
        spec: ModelSpec,
        *,
        rows: int,
        capacity: int,
        device: str = "cpu",
        threads: int | None = None,
        lean: bool = False,
        graph: bytes | None = None,
    ) -> None:
        self.spec = spec
        resolved = _resolve(device)
        self._location = (resolved.type, resolved.index or 0)
        self._session = _open_session(folder, spec, resolved, threads, lean, graph)
        self._grows = not lean
        self.cache = allocate_cache(spec, rows, capacity, resolved, grows=self._grows)
        self._bindings: dict[tuple[int, int], Any] = {}
        self._bound = self.cache.generation
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
            EngineError: The call does not fit the cache or the model, or ONNX Runtime fails.
        """
        check_call(call, self.cache)
        check_head(call.head, self.spec, *call.input_ids_BT.shape)
        inputs = call_inputs(call)
        if self._grows:
            mask_B1TL = inputs["attention_mask"]
            self.cache.hold(call.first_row, len(mask_B1TL), mask_B1TL.shape[-1])
            inputs["attention_mask"] = torch.nn.functional.pad(mask_B1TL, (0, self.cache.slots - mask_B1TL.shape[-1]))
        output = self._outputs.of(call)
        binding = self._binding(call.first_row, len(call.input_ids_BT))
        for name, tensor in inputs.items():
            binding.bind_input(name, *self._address(tensor))
        for name, tensor in named(output).items():
            binding.bind_output(name, *self._address(tensor))
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's errors share no public base
            raise EngineError(f"ONNX Runtime failed in a call: {first_line(error)}") from error
        return output

    def _address(self, tensor: torch.Tensor) -> tuple[str, int, int, tuple[int, ...], int]:
        return (*self._location, ELEMENTS[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())

    def _binding(self, first_row: int, rows: int) -> Any:
        """Return the binding of these rows, which is kept until the cache moves."""
        if self._bound != self.cache.generation:
            self._bindings.clear()
            self._bound = self.cache.generation
        if (first_row, rows) not in self._bindings:
            binding = self._session.io_binding()
            layers, parts = self.spec.layers, self.cache.parts(first_row, rows)
            for past, present, part in zip(past_names(layers), present_names(layers), parts, strict=True):
                binding.bind_input(past, *self._address(part))
                binding.bind_output(present, *self._address(part))
            self._bindings[first_row, rows] = binding
        return self._bindings[first_row, rows]


def _resolve(device: str) -> torch.device:
    """Return the device of a name.

    Raises:
        UsageError: There is no such device, or ONNX Runtime does not run on it.
    """
    try:
        resolved = torch.device(device)
    except RuntimeError:
        resolved = None
    if resolved is None or resolved.type not in PROVIDERS:
        hint = NO_TENSORRT if "tensorrt" in device.lower() else ""
        raise UsageError(f"Backend onnxruntime runs on cpu, cuda or cuda:N; got {device!r}.", hint=hint)
    return resolved


def _open_session(
    folder: Path, spec: ModelSpec, device: torch.device, threads: int | None, lean: bool, graph: bytes | None
) -> Any:
    """Open a session of ONNX Runtime on a model; the arguments are those of ``OnnxRuntimeEngine``."""
    path = folder / GRAPH
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            f"ONNX Runtime cannot be imported: {error}.", hint=f"Install it with `{EXTRAS[device.type]}`."
        ) from error
    options = onnxruntime.SessionOptions()
    # Idle threads spin for so long before they sleep. That bridges the gaps between the operators of a call, which
    # makes small models a third faster. By default they spin for tens of milliseconds, and PyTorch, which samples
    # between the calls, has to wait for the cores.
    options.add_session_config_entry("session.intra_op.spin_duration_us", "100")
    if threads is not None:
        options.intra_op_num_threads = threads
    if lean or "fp8" in spec.quantisation:
        # ONNX Runtime cannot multiply eight-bit floating-point numbers, and fusing them gives an invalid graph.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if lean:
        options.enable_cpu_mem_arena = False
        options.add_session_config_entry("session.disable_prepacking", "1")
        # The nodes run in the graph's order, in which a weight is cast or joined right before its use. In any other
        # order, copies of all weights may be alive at once.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
    if not lean or graph is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    check_providers(onnxruntime.get_available_providers(), device.type)
    try:
        if not lean:
            integers = graph is None and spec.quantisation == "int8" and device.type == "cpu"
            attending = with_cpu_attention if device.type == "cpu" else without_cuts
            graph = attending(path.read_bytes() if graph is None else graph)
            graph = with_integer_products(graph) if integers else graph
        session = onnxruntime.InferenceSession(path if graph is None else graph, options, providers=_providers(device))
    except Exception as error:  # ONNX Runtime's errors share no public base
        raise EngineError(
            f"ONNX Runtime {onnxruntime.__version__} cannot open {path}: {first_line(error)}",
            hint=f"Install spectr's release of it with `{EXTRAS[device.type]}`, or build the bundle again.",
        ) from error
    check_providers(session.get_providers(), device.type)
    return session


def _providers(device: torch.device) -> list[tuple[str, dict[str, str]]]:
    """Return the provider with its options.

    On CUDA, ONNX Runtime runs on PyTorch's stream, so that a call waits for its inputs and for nothing else.
    """
    if device.type == "cpu":
        return [(PROVIDERS["cpu"], {})]
    stream = torch.cuda.current_stream(device).cuda_stream
    return [(PROVIDERS["cuda"], {"device_id": str(device.index or 0), "user_compute_stream": str(stream)})]


def check_providers(found: Sequence[str], device: str) -> None:
    """Check that ONNX Runtime did not fall back to another provider, which it does without an error.

    Args:
        found: The providers that ONNX Runtime has, or has opened.
        device: ``cpu`` or ``cuda``.

    Raises:
        EngineError: The provider of the device is not among them.
    """
    if PROVIDERS[device] not in found:
        raise EngineError(
            f"ONNX Runtime offers {', '.join(found) or 'no provider'}; {device} needs {PROVIDERS[device]}.",
            hint=f"Install a build that has it, and check the driver: `{EXTRAS[device]}`.",
        )
