"""Work of a device that is recorded once and replayed.

The host issues an operation in some microseconds, and a round has a thousand of them, so a GPU that computes each in
one or two stands idle most of the time. A CUDA graph holds them all, and the host starts it with one call.

What is recorded reads and writes the memory that it read and wrote while it was recorded. What it allocated belongs to
a pool that all recordings share: nobody reads what one of them wrote there after another has begun.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol
from weakref import WeakSet

import torch


class Recorder(Protocol):
    """Records work."""

    def record(self, work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """Record work without doing it.

        Args:
            work: Work that was done before, with the same shapes. It does not wait for the device, and it copies
                nothing to the device or from it.

        Returns:
            What does the work, and returns the tensor that ``work`` returned: valid until the next work begins.

        Raises:
            RuntimeError: The work cannot be recorded, or memory ran out.
        """

    def settle(self) -> None:
        """Wait until the device has done all of its work."""


class CudaGraphs:
    """Records work on a GPU as CUDA graphs.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # Of this device, whichever is the current one.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def record(self, work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """See ``Recorder``."""
        if not self._graphs:  # a pool whose graphs are all gone cannot be opened again
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        kept = torch.cuda.stream(torch.cuda.current_stream(self._device))  # also behind a recording that failed
        capture = torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local")
        with torch.cuda.device(self._device), kept, _uncollected(), capture:
            output = work()
        self._graphs.add(graph)

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay

    def settle(self) -> None:
        """See ``Recorder``."""
        torch.cuda.synchronize(self._device)


@contextmanager
def _uncollected() -> Iterator[None]:
    """Collect no garbage while the block runs: what holds memory of the GPU must not go while work is recorded."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()
