"""The cache as the layers of a transformers model see it during one call."""

# B rows, T tokens fed, S slots of a row, L attention length, H key/value heads (Hk), D head size.
from __future__ import annotations

import dataclasses
from typing import Any

import torch

from spectr_runtime.contract import OPSET


@dataclasses.dataclass(slots=True)
class CallCache:
    """The keys and values that a model's layers write, and read up to the attention length.

    It has the two methods that transformers' models call on their cache.

    Attributes:
        parts: The keys and the values of each layer in turn, [B, Hk, S, D]. Eager calls write into these tensors; an
            export replaces them by the results of its operators.
        write_index_B: The first slot that is written in each row; int64.
        length: Attention length L.
        slots_BT: The slots that are written; computed by the first layer for all of them.
    """

    parts: list[torch.Tensor]
    write_index_B: torch.Tensor
    length: int
    slots_BT: torch.Tensor | None = None

    def update(
        self, key_BHTD: torch.Tensor, value_BHTD: torch.Tensor, layer: int, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write a layer's new keys and values, and return the first L slots of both [B, Hk, L, D]."""
        indices = (2 * layer, 2 * layer + 1)
        for index, new_BHTD in zip(indices, (key_BHTD, value_BHTD), strict=True):
            self.parts[index] = self._scatter(self.parts[index], new_BHTD)
        key_BHLD, value_BHLD = (self.parts[index][:, :, : self.length] for index in indices)
        return key_BHLD, value_BHLD

    def get_seq_length(self, *_args: Any) -> int:
        """Return 0: the caller gives positions and mask, so no model has to derive them from a length."""
        return 0

    def _scatter(self, past_BHSD: torch.Tensor, new_BHTD: torch.Tensor) -> torch.Tensor:
        if torch.compiler.is_exporting():
            inputs = (past_BHSD, new_BHTD, self.write_index_B)
            return torch.onnx.ops.symbolic(
                "TensorScatter", inputs, {"axis": -2}, dtype=past_BHSD.dtype, shape=past_BHSD.shape, version=OPSET
            )
        rows, _, tokens, _ = new_BHTD.shape
        if self.slots_BT is None:
            self.slots_BT = self.write_index_B[:, None] + torch.arange(tokens, device=new_BHTD.device)
        rows_B1 = torch.arange(rows, device=new_BHTD.device)[:, None]
        past_BHSD[rows_B1, :, self.slots_BT] = new_BHTD.transpose(1, 2)
        return past_BHSD
