"""An engine whose caller is told when it is at work."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from spectr_runtime.bundle import ModelSpec
from spectr_runtime.contract import Call, Engine, KVCache, Output


class Surroundings:
    """What passes are the blocks of, as it is at the time.

    Attributes:
        make: Makes the context of a pass.
    """

    def __init__(self) -> None:
        self.make: Callable[[], AbstractContextManager[None]] = nullcontext

    def __call__(self) -> AbstractContextManager[None]:
        """Return the context of a pass."""
        return self.make()


@dataclasses.dataclass(frozen=True, slots=True)
class SurroundedEngine:
    """An engine each of whose passes is the block of a context.

    Attributes:
        engine: The engine.
        around: Makes the context of a pass.
    """

    engine: Engine
    around: Callable[[], AbstractContextManager[None]]

    @property
    def spec(self) -> ModelSpec:
        """The model's sizes."""
        return self.engine.spec

    @property
    def cache(self) -> KVCache:
        """The cache of the engine."""
        return self.engine.cache

    @property
    def capturable(self) -> bool:
        """Whether calls of the engine can be recorded as CUDA graphs."""
        return self.engine.capturable

    def forward(self, call: Call) -> torch.Tensor:
        """Contract of ``Engine.forward``."""
        with self.around():
            return self.engine.forward(call)

    def run(self, call: Call) -> Output:
        """Contract of ``Engine.run``."""
        with self.around():
            return self.engine.run(call)
