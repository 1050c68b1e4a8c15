"""The cache of keys and values: memory of fixed size, whose rows can be addressed one by one."""

# B rows of a call, D depth of the accepted paths, S slots, Hk key/value heads, E entries of a part.
from __future__ import annotations

import torch

from spectr_runtime.contract.mask import aligned


class KVCache:
    """Keys and values of every layer in one tensor [2 * layers, rows, Hk, S, head_size].

    The keys of a layer are a contiguous slice, and so are neighbouring rows of them. Engines can therefore bind
    addresses in the buffer, and nothing is copied for a call.

    A row may have fewer slots than its capacity, until ``resize`` gives it more: then the buffer lies in the front of
    its memory. The rest is left untouched, so that on a CPU the system has not handed it out.

    The slots of a row hold its text in order. The nodes of a draft tree follow the text, until ``keep`` moves
    the accepted ones forward. The next call overwrites the rejected ones.

    Args:
        layers: Number of layers of the model.
        rows: Number of rows of the batch.
        kv_heads: Number of key/value heads of a layer.
        capacity: The most slots that a row can have.
        head_size: Size of one head.
        dtype: Type of the entries.
        device: Device of the buffer.
        slots: How many slots a row has at first; None for all.

    Attributes:
        reach: For each row, how many slots from its start may hold its text, as far as is known. An engine that makes
            the cache smaller leaves every row so many.
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
        slots: int | None = None,
    ) -> None:
        self.layers = layers
        self.rows = rows
        self.capacity = capacity
        self._sizes = rows, kv_heads, head_size
        self._memory_PE = torch.empty((2 * layers, rows * kv_heads * capacity * head_size), dtype=dtype, device=device)
        self.buffer = self._laid_out(capacity if slots is None else slots).zero_()
        self.reach = [0] * rows

    @property
    def slots(self) -> int:
        """The number of slots that a row has now."""
        return self.buffer.shape[3]

    @property
    def nbytes(self) -> int:
        """The bytes of the memory, used or not."""
        return self._memory_PE.nbytes

    def resize(self, slots: int) -> None:
        """Give every row so many slots, at most its capacity. The first ones stay as they are, new ones are zero.

        The addresses of all rows change. One part of one layer is copied at a time.
        """
        before, kept = self.buffer, min(slots, self.slots)
        self.buffer = self._laid_out(slots)
        for old, new in zip(before, self.buffer, strict=True):
            held = old[:, :, :kept].clone()
            new[:, :, :kept] = held
            new[:, :, kept:] = 0

    def _laid_out(self, slots: int) -> torch.Tensor:
        rows, heads, size = self._sizes
        entries = rows * heads * slots * size
        return self._memory_PE[:, :entries].view(2 * self.layers, rows, heads, slots, size)

    def key(self, layer: int) -> torch.Tensor:
        """Return the keys of a layer [rows, Hk, S, head_size]."""
        return self.buffer[2 * layer]

    def value(self, layer: int) -> torch.Tensor:
        """Return the values of a layer [rows, Hk, S, head_size]."""
        return self.buffer[2 * layer + 1]

    def span(self, row: int, first: int, end: int) -> torch.Tensor:
        """Return the slots ``first .. end - 1`` of a row, of all layers [2 * layers, Hk, end - first, head_size].

        It is a view, until the cache is resized. The row keeps these slots at least until it is read again.
        """
        self.reach[row] = max(self.reach[row], end)
        self._make_room(end)
        return self.buffer[:, row, :, first:end]

    def move(self, source: int, target: int, slots: int) -> None:
        """Copy the first slots of a row to another row, and leave it to be read anew."""
        self.buffer[:, target, :, :slots] = self.buffer[:, source, :, :slots]
        self.reach[target], self.reach[source] = self.reach[source], 0

    def _make_room(self, slots: int) -> None:
        if slots > self.slots:
            self.resize(min(aligned(slots), self.capacity))

    def clear(self, row: int) -> None:
        """Zero a row whose keys or values may not be finite.

        A mask gives hidden slots the weight zero, but zero times NaN is NaN, so a later text in the row would fail too.
        """
        self.buffer[:, row].zero_()

    def keep(self, base_B: torch.Tensor, accepted_BD: torch.Tensor) -> None:
        """Move the slots of the accepted nodes to directly after their root.

        The draft's cache is not fed leaves. What moves there for an accepted leaf means nothing, and may lie beyond the
        slots that were needed so far; then the cache gets more.

        Args:
            base_B: Slot of each row's root; node n is in slot ``base + n``.
            accepted_BD: Accepted nodes in path order, -1 padded.
        """
        rows_B1 = torch.arange(len(base_B), device=base_B.device)[:, None]
        slots_BD = base_B[:, None] + 1 + torch.arange(accepted_BD.shape[1], device=base_B.device)
        # The padding moves a slot onto itself, so that all rows move the same number of slots.
        sources_BD = torch.where(accepted_BD < 0, slots_BD, base_B[:, None] + accepted_BD)
        if self.slots < self.capacity:
            self._make_room(int(torch.maximum(slots_BD, sources_BD).max()) + 1)
        self.buffer[:, rows_B1, :, slots_BD] = self.buffer[:, rows_B1, :, sources_BD]
