"""The key/value cache: fixed capacity, one contiguous buffer, rows that can be addressed alone."""

# B rows of a call, D depth of the accepted paths, S slots, Hk key/value heads.
from __future__ import annotations

import torch


class KVCache:
    """Keys and values of every layer in one tensor [2 * layers, rows, Hk, S, head_size].

    A layer's keys are a contiguous slice, and so are its rows ``b0:b1``: an engine binds addresses, nothing is copied.
    Slots hold a row's text in order; the nodes of a draft tree stand behind it until ``keep`` moves the accepted ones
    forward. Rejected nodes are overwritten by the next call.

    Args:
        layers: Layers of the model.
        rows: Rows of the batch.
        kv_heads: Key/value heads of a layer.
        capacity: Slots of a row.
        head_size: Size of one head.
        dtype: Type of the entries.
        device: Where they live.
    """

    def __init__(
        self,
        layers: int,
        rows: int,
        kv_heads: int,
        capacity: int,
        head_size: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.layers = layers
        self.rows = rows
        self.capacity = capacity
        self.buffer = torch.zeros((2 * layers, rows, kv_heads, capacity, head_size), dtype=dtype, device=device)

    def key(self, layer: int) -> torch.Tensor:
        """Keys of a layer [rows, Hk, S, head_size]."""
        return self.buffer[2 * layer]

    def value(self, layer: int) -> torch.Tensor:
        """Values of a layer [rows, Hk, S, head_size]."""
        return self.buffer[2 * layer + 1]

    def clear(self, row: int) -> None:
        """Zero a row: a mask hides a slot's weight, but zero times NaN is NaN in every attention kernel."""
        self.buffer[:, row].zero_()

    def keep(self, base_B: torch.Tensor, accepted_BD: torch.Tensor) -> None:
        """Move the slots of the accepted nodes to directly behind their root.

        Args:
            base_B: Slot of each row's root; node n stands at ``base + n``.
            accepted_BD: Accepted nodes in path order, -1 padded. A padded place moves a slot onto itself.
        """
        rows_B1 = torch.arange(len(base_B), device=base_B.device)[:, None]
        slots_BD = base_B[:, None] + 1 + torch.arange(accepted_BD.shape[1], device=base_B.device)
        sources_BD = torch.where(accepted_BD < 0, slots_BD, base_B[:, None] + accepted_BD)
        self.buffer[:, rows_B1, :, slots_BD] = self.buffer[:, rows_B1, :, sources_BD]
