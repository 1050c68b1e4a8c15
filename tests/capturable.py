"""What a CUDA graph cannot record: waiting for the device, copies between it and the host, shapes that depend on data.

A graph replays the kernels of a run, and nothing of what the host did between them. No GPU is needed to find what
cannot be recorded: tensors on the CPU or on the device ``meta`` show it as well. On ``meta`` nothing is computed, but
tensors that lie on different devices are noticed, as on a GPU.
"""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

ROOT = Path(__file__).parent.parent
WAITS = "the host waits for its result"
SHAPED = "the shape of its result depends on data, so the host waits for it"
COPIES = "it copies from the host; make the constant once and keep it"
MIXES = "its tensors lie on different devices"
OPERATORS = {
    **dict.fromkeys(("_local_scalar_dense", "equal", "allclose"), WAITS),
    **dict.fromkeys(("nonzero", "masked_select", "bincount"), SHAPED),
    **dict.fromkeys(("_unique", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive"), SHAPED),
    **dict.fromkeys(("lift_fresh", "lift_fresh_copy"), COPIES),
}
# What dispatches nothing that tells of the host, on one of the two devices at least.
FUNCTIONS = {
    **dict.fromkeys(("tolist", "numpy", "__array__", "__dlpack__", "__format__", "__repr__"), WAITS),
    **dict.fromkeys(("cpu", "cuda"), MIXES),
    **dict.fromkeys(("tensor", "new_tensor"), COPIES),
}
MASKS = (torch.bool, torch.uint8)


@contextlib.contextmanager
def capturable() -> Iterator[None]:
    """Refuse, while the block runs, what a CUDA graph cannot record.

    Run the same once before, so that what is kept from then on, such as constants, is made.

    Raises:
        AssertionError: Something cannot be recorded; the message names it and the line of the project that asked for
            it.
    """
    with _Functions(), _Operators():
        yield


class _Functions(TorchFunctionMode):
    """Sees what the host asks for."""

    def __torch_function__(
        self, function: Any, types: object, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(function, "__name__", str(function))
        reason = FUNCTIONS.get(name)
        if name == "as_tensor" and not isinstance(arguments[0], torch.Tensor):
            reason = COPIES
        if name in ("__getitem__", "__setitem__"):
            index = arguments[1] if isinstance(arguments[1], tuple) else (arguments[1],)
            reason = COPIES if any(isinstance(part, list | range | numpy.ndarray) for part in index) else reason
        if reason is not None:
            _refuse(name, reason)
        return function(*arguments, **(options or {}))


class _Operators(TorchDispatchMode):
    """Sees what is computed."""

    def __torch_dispatch__(
        self, operator: Any, types: object, arguments: Sequence[Any] = (), options: Mapping[str, Any] | None = None
    ) -> Any:
        options = options or {}
        with self:  # In inference mode operators come whole that consist of others.
            parts = operator.decompose(*arguments, **options)
        if parts is not NotImplemented:
            return parts
        name = operator.name().partition("::")[2]
        base = name.partition(".")[0]
        reason = OPERATORS.get(base)
        if base in ("index", "index_put", "index_put_"):
            masks = [index for index in arguments[1] if index is not None and index.dtype in MASKS]
            reason = SHAPED if masks else reason
        if name == "repeat_interleave.Tensor" and options.get("output_size") is None:
            reason = SHAPED
        tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, torch.Tensor)]
        targets = {tensor.device for tensor in tensors} | ({options["device"]} if options.get("device") else set())
        if reason is not None or (tensors and len(targets) > 1):
            _refuse(name, reason or MIXES)
        return operator(*arguments, **options)


def _refuse(name: str, reason: str) -> None:
    """Raise an error that names the innermost line of the project."""
    frames = [frame for frame in traceback.extract_stack() if _is_ours(Path(frame.filename))]
    line = f"{Path(frames[-1].filename).relative_to(ROOT)}:{frames[-1].lineno}: {frames[-1].line}"
    raise AssertionError(f"{name} cannot be captured, {reason}. {line}")


def _is_ours(path: Path) -> bool:
    return path.is_relative_to(ROOT) and "site-packages" not in path.parts and path != Path(__file__)
