"""Clocks of a device, the bandwidth of its memory, and how long it is busy."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable
from typing import Any

import torch

from spectr_select import holding

COPIED = {"cuda": 2**31, "cpu": 2**26}  # bytes
QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
ENOUGH = 1.0  # seconds after which work is not repeated


def gpu() -> dict[str, Any]:
    """Return the name, memory and driver of the GPU, and PyTorch's release of CUDA."""
    name, memory, driver = subprocess.check_output(QUERY, text=True).splitlines()[0].split(", ")
    return {
        "name": name, "memory": memory, "driver": driver, "cuda": torch.version.cuda, "torch": torch.__version__
    }  # fmt: skip


def settle(device: str) -> None:
    """Wait until the device has nothing to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_of(work: Callable[[], Any], device: str, repeats: int) -> list[float]:
    """Return how long work takes on the device, once for every repeat; it is done once before.

    Work that takes long is not repeated.
    """
    first = _timed(work, device)
    return [first] if first > ENOUGH else [_timed(work, device) for _ in range(repeats)]


def _timed(work: Callable[[], Any], device: str) -> float:
    if device == "cpu":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    work()
    ended.record()
    ended.synchronize()
    return float(begun.elapsed_time(ended)) / 1e3


def captured(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return what replays the work, captured as a graph of CUDA after it was done three times."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with holding() as constants, torch.cuda.graph(graph):
        work()

    def replay() -> list[object]:
        graph.replay()  # type: ignore[no-untyped-call]
        return constants  # which live as long as what reads them

    return replay


def bandwidth(device: str) -> float:
    """Return the bytes per second that a large copy within the device's memory reads and writes."""
    source = torch.zeros(COPIED[device], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found = seconds_of(lambda: target.copy_(source), device, 7)
    return 2 * source.nbytes / statistics.median(found)


def watch_kernels() -> None:
    """Load what tells the times of kernels, which has to be there before graphs of CUDA are captured, and to stay."""
    os.environ |= {"DISABLE_CUPTI_LAZY_REINIT": "1", "TEARDOWN_CUPTI": "0"}
    busy = Busy()
    busy.start()
    busy.stop()


class Busy:
    """Counts for how many seconds kernels run on the GPU, from one moment to another.

    Attributes:
        runs: Whether it counts.
        seconds: What was counted, once it has been stopped.
    """

    def __init__(self) -> None:
        self.runs, self.seconds = False, 0.0
        self._profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])

    def start(self) -> None:
        """Count from now on."""
        self._profile.start()
        self.runs = True

    def stop(self) -> None:
        """Count no more."""
        self._profile.stop()
        self.runs = False
        events = self._profile.profiler.kineto_results.events()  # type: ignore[union-attr]
        on_gpu = [event for event in events if event.device_type() == torch.autograd.DeviceType.CUDA]
        self.seconds = covered((one.start_ns(), one.start_ns() + one.duration_ns()) for one in on_gpu) / 1e9


def covered(spans: Iterable[tuple[int, int]]) -> int:
    """Return the length of what spans cover; what several cover counts once."""
    length = end = 0
    for begun, ended in sorted(spans):
        length += max(ended - max(begun, end), 0)
        end = max(end, ended)
    return length
