"""The library behind a TensorRT backend: importing it, collecting its messages, and the key of this machine."""

from __future__ import annotations

import collections
import importlib
import warnings
from typing import Any

import torch

from spectr_runtime.backends import Flavour
from spectr_runtime.bundle.compiled import EngineKey
from spectr_runtime.errors import EngineError, UsageError, first_line

MODULES = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
EXTRAS = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}


class Log:
    """The messages of TensorRT. Its functions return None or False when they fail, and only its log says why.

    Attributes:
        layers: The list of an engine's layers, which is the last message of a build; empty before.
    """

    def __init__(self) -> None:
        self.layers = ""
        self._errors: collections.deque[str] = collections.deque(maxlen=20)

    def hear(self, message: str, *, is_error: bool) -> None:
        """Take a message, unless it says that there is no driver.

        On a machine without one, TensorRT adds that message to every other error.
        """
        if is_error and "cudaError 35" not in message:
            self._errors.append(message)
        elif message.startswith("Layers:"):
            self.layers = message

    def has_error(self, words: str) -> bool:
        """Return whether one of the latest errors contains these words."""
        return any(words in message for message in self._errors)

    @property
    def error(self) -> str:
        """The first line of the latest error."""
        return self._errors[-1].strip().splitlines()[0] if self._errors else "it gave no reason."


def make_logger(trt: Any, log: Log) -> Any:
    """Return a logger for TensorRT that prints nothing and passes every message to a log."""
    errors = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.hear(message, is_error=severity in errors)

    return Logger()


def load_tensorrt(flavour: str) -> Any:
    """Import the Python module of a flavour.

    Raises:
        EngineError: The module is not installed; the hint names the extra of spectr that installs it.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as error:  # an OSError comes from a library of NVIDIA's that the module loads
        reason = first_line(error)
        raise EngineError(
            f"{flavour} cannot be imported: {reason}.",
            hint=f"Install it with `pip install 'spectr[{EXTRAS[flavour]}]'`.",
        ) from error


def machine_key(flavour: Flavour, device: str) -> EngineKey:
    """Return the key that an engine must run on to serve a device of this machine.

    Raises:
        UsageError: The device is not a CUDA device.
        EngineError: The flavour is not installed, or PyTorch does not see the device.
    """
    if torch.device(device).type != "cuda":
        raise UsageError(f"Backend {flavour} runs on a CUDA device; got {device!r}.", hint="Use --device cuda.")
    version = str(load_tensorrt(flavour).__version__)
    try:
        major, minor = torch.cuda.get_device_capability(device)
        gpu = torch.cuda.get_device_name(device) if flavour == "tensorrt" else ""
    except (RuntimeError, AssertionError) as error:
        reason = first_line(error)
        raise EngineError(
            f"Backend {flavour} needs a GPU; PyTorch sees no {device!r}: {reason}",
            hint="Use --backend onnxruntime --device cpu, or a machine with a GPU and a CUDA build of PyTorch.",
        ) from error
    return EngineKey(flavour, version, (f"{major}.{minor}",), gpu)
