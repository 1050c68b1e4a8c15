"""The backends that implement the engine protocol, each imported only when one of its engines is opened.

The modules:

    torch               PyTorch and transformers, the reference
    onnxruntime         ONNX Runtime, on the CPU or a CUDA GPU
    integer             integer products for its CPU provider, in graphs in int8
    tensorrt            TensorRT and TensorRT-RTX, on a GPU
    tensorrt_contexts   their execution contexts, and which of them CUDA graphs have recorded
    tensorrt_library    importing either of these two, and hearing their errors
    attention           attention of graphs for ONNX Runtime, over the whole cache
    buffers             what engines share: the cache, and inputs and logits that are bound by address
"""

from __future__ import annotations

from spectr_runtime.backends import BACKENDS, FLAVOURS, Backend
from spectr_runtime.bundle import Bundle, Role
from spectr_runtime.contract import Engine
from spectr_runtime.errors import UsageError


def open_engine(
    bundle: Bundle,
    role: Role,
    *,
    backend: Backend,
    device: str,
    rows: int,
    capacity: int,
    slots: int | None = None,
    tree: int = 1,
) -> Engine:
    """Open one model of a bundle.

    TensorRT is always driven directly, never through ONNX Runtime's provider for it. That provider is tied to one
    release of TensorRT, and builds an engine anew for every new shape unless it is given the same profiles.

    Args:
        bundle: The bundle.
        role: Which of its models to open.
        backend: Which library runs the model.
        device: The device to run on, as torch names it.
        rows: Number of rows of the cache.
        capacity: Number of slots of a row.
        slots: How many of them are needed for now; None for all. The rows of a compiled engine have a fixed number of
            slots, so the smallest engine with so many is opened.
        tree: Number of tokens of the largest draft tree, its root among them.

    Raises:
        UsageError: The backend is unknown or does not run on the device.
        EngineError: The backend is not installed, fails to open the model, or has no engine for this machine that takes
            as many rows and slots and as large a tree.
        BundleError: A compiled engine in the bundle is not the one that was written there.
    """
    folder, spec = bundle.model(role), bundle.manifest.models[role]
    if backend == "torch":
        from spectr_runtime.engines.torch import TorchEngine

        return TorchEngine(folder, spec, rows=rows, capacity=capacity, device=device)
    if backend == "onnxruntime":
        from spectr_runtime.engines.onnxruntime import OnnxRuntimeEngine

        _leave_cores_to_onnxruntime()
        return OnnxRuntimeEngine(folder, spec, rows=rows, capacity=capacity, device=device)
    if backend in FLAVOURS:
        from spectr_runtime.bundle.engines import find_engine, find_engines
        from spectr_runtime.engines.tensorrt import TensorRTEngine, check_size
        from spectr_runtime.engines.tensorrt_library import machine_key

        machine, slots = machine_key(backend, device), capacity if slots is None else slots
        _, largest = find_engines(bundle, role, machine)[-1]
        check_size(largest, rows, capacity, tree)  # rather now than when a text needs it
        path, compiled = find_engine(bundle, role, machine, rows=rows, slots=slots)
        return TensorRTEngine(path, compiled, spec, rows=rows, capacity=slots, tree=tree, device=device)
    raise UsageError(f"Backend {backend!r} is unknown; it must be one of {', '.join(BACKENDS)}.")


def _leave_cores_to_onnxruntime() -> None:
    """Set PyTorch to one thread for the rest of the process.

    Between the passes of ONNX Runtime, PyTorch only samples and selects. Two pools of threads that wait for each
    other's cores cost more than further threads would gain there.
    """
    import torch

    torch.set_num_threads(1)
