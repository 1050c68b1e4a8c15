"""Every test here runs on a GPU, and on the CPU with a double of what records rounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from replayed import TapeRecorder, recorder

from spectr_runtime.replay.recorder import CudaGraphs

__all__ = ["recorder"]


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> str:
    """The device that models run on; on the CPU, decoders record with the double."""
    name: Any = request.param
    if name == "cpu":
        request.getfixturevalue("recorder")
    return str(name)


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often each recording was replayed, in the order in which they were made."""
    replayed = list[int]()

    def counted(record: Callable[..., Callable[[], torch.Tensor]]) -> Callable[..., Callable[[], torch.Tensor]]:
        def recording(self: object, work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
            replay, index = record(self, work), len(replayed)
            replayed.append(0)

            def replaying() -> torch.Tensor:
                replayed[index] += 1
                return replay()

            return replaying

        return recording

    for kind in (CudaGraphs, TapeRecorder):
        monkeypatch.setattr(kind, "record", counted(kind.record))
    return replayed
