"""Table engines whose caches grow, as long as there is memory."""

from __future__ import annotations

import torch
from support import TableEngine

from spectr_runtime import EngineError, Request, SamplingParams
from spectr_runtime.contract import Call, KVCache

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79.10 GiB"


class SmallCache(KVCache):
    """A cache that grows, with memory for so many slots of all rows together."""

    most = 4 * 320

    def _allocate(self, parts: int, slots: int) -> torch.Tensor:
        if self.rows * slots > self.most:
            raise EngineError(f"There is no memory for a cache of {self.rows} rows of {slots} slots: {OUT_OF_MEMORY}")
        return super()._allocate(parts, slots)


class GrowingEngine(TableEngine):
    """A table engine whose cache grows."""

    kind: type[KVCache] = KVCache

    def __init__(self, *arguments: int, rows: int, capacity: int, **sizes: int) -> None:
        super().__init__(*arguments, rows=rows, capacity=capacity, **sizes)
        cpu = torch.device("cpu")
        self.cache = self.kind(1, rows, 1, capacity, 1, dtype=torch.float32, device=cpu, grows=True)

    def forward(self, call: Call) -> torch.Tensor:
        self.cache.hold(call.first_row, len(call.input_ids_BT), call.attention_mask_B1TL.shape[-1])
        return super().forward(call)


class CrampedEngine(GrowingEngine):
    """A table engine whose cache grows as long as there is memory."""

    kind = SmallCache


def long_texts(count: int) -> list[Request]:
    """Requests of many lengths, for texts that are longer and longer."""
    return [
        Request(
            str(row),
            (1 + row % 3, 3, 2, 4) * (5 + 9 * (row % 4)),
            SamplingParams(max_tokens=20 + 15 * row, ignore_eos=True),
        )
        for row in range(count)
    ]
