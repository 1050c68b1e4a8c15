"""Backends of the engine protocol, one file each, imported when they are opened."""

from __future__ import annotations

from spectr_runtime.backends import BACKENDS, FLAVOURS, Backend
from spectr_runtime.bundle import Bundle, Role
from spectr_runtime.contract import Engine
from spectr_runtime.errors import UsageError


def open_engine(bundle: Bundle, role: Role, *, backend: Backend, device: str, rows: int, capacity: int) -> Engine:
    """Open one model of a bundle.

    Args:
        bundle: The bundle.
        role: Which of its models.
        backend: ``onnxruntime``, ``torch``, ``tensorrt`` or ``tensorrt-rtx``. TensorRT is driven directly and never
            through ONNX Runtime's provider for it, which is tied to a release of TensorRT and, unless it is given the
            same profiles, builds an engine again for every new shape.
        device: Where to run, as torch names it.
        rows: Rows of the cache.
        capacity: Slots of a row.

    Raises:
        UsageError: The backend is unknown or does not run on the device.
        EngineError: The backend is not installed, fails to open the model or has no engine for this machine.
        BundleError: An engine of the bundle is not the one that was compiled.
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
        from spectr_runtime.bundle.compiled import find_engine
        from spectr_runtime.engines.tensorrt import TensorRTEngine
        from spectr_runtime.engines.tensorrt_library import machine_key

        path, compiled = find_engine(bundle, role, machine_key(backend, device))
        return TensorRTEngine(path, compiled, spec, rows=rows, capacity=capacity, device=device)
    raise UsageError(f"Backend {backend!r} is unknown; it must be one of {', '.join(BACKENDS)}.")


def _leave_cores_to_onnxruntime() -> None:
    """Set PyTorch to one thread for the rest of the process.

    PyTorch only samples between the passes of ONNX Runtime. Two pools of threads that wait for each other's cores cost
    more than further threads of PyTorch bring.
    """
    import torch

    torch.set_num_threads(1)
