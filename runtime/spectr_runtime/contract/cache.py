"""The cache of keys and values: memory that grows with the texts, and whose rows can be addressed one by one."""

# B rows of a call, D depth of the accepted paths, P parts of a piece, R rows, S slots, Hk key/value heads.
from __future__ import annotations

import torch

from spectr_runtime.contract.mask import ALIGNMENT, aligned
from spectr_runtime.errors import EngineError, first_line
from spectr_runtime.files import show_bytes
from spectr_runtime.memory import free_memory

PIECES = 8  # more would take less memory while the cache grows, and more time in every round with branching trees


class KVCache:
    """Keys and values of every row: for each layer two parts [R, Hk, S, head_size], its keys and its values.

    A part is contiguous, and so are neighbouring rows of it. Engines can therefore bind addresses in the cache, and
    nothing is copied for a call. Neighbouring parts lie in one of a few pieces [P, R, Hk, S, head_size].

    All rows have the same number of slots. With ``grows`` it is about what the longest of them needs: ``hold`` makes
    the cache longer, and ``hold_round`` also shorter where its rows need less than half. A piece after the other is
    then copied to new memory and given up, so that at most one of ``PIECES`` pieces is there twice. Otherwise all rows
    have their whole capacity from the first moment on.

    The slots of a row hold its text in order. The nodes of a draft tree follow the text, until ``keep`` moves
    the accepted ones forward. The next call overwrites the rejected ones.

    Args:
        layers: Number of layers of the model.
        rows: Number of rows of the batch.
        kv_heads: Number of key/value heads of a layer.
        capacity: The most slots that a row can have.
        head_size: Size of one head.
        dtype: Type of the entries.
        device: Device of the memory.
        grows: Whether a row has fewer slots than its capacity until it needs them.

    Attributes:
        pieces: The memory; the pieces hold the parts in the order of ``past_names``.
        slots: The number of slots that a row has now.
        generation: Counts how often the memory has moved. An address holds until then.
        reach: For each row, how many slots from its start may hold its text, as far as is known. A cache that gets
            shorter leaves every row so many.

    Raises:
        EngineError: There is no memory for it, or no such device.
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
        grows: bool = False,
    ) -> None:
        self.capacity = capacity
        self.device = device
        self.generation = 0
        self.pieces: list[torch.Tensor] = []
        self._heads, self._size, self._dtype = kv_heads, head_size, dtype
        self._parts = 2 * layers
        self._least = min(ALIGNMENT, capacity) if grows else capacity
        self.restart(rows)

    @property
    def nbytes(self) -> int:
        """The bytes of the memory."""
        return sum(piece.nbytes for piece in self.pieces)

    def restart(self, rows: int) -> None:
        """Forget all texts and go on with so many rows, as short as at first.

        The memory is given up before new memory is taken.

        Raises:
            EngineError: There is no memory.
        """
        self.rows, self.slots = rows, self._least
        self.pieces.clear()
        self._give_back()
        share = -(-self._parts // PIECES)
        for first in range(0, self._parts, share):
            self.pieces.append(self._allocate(min(share, self._parts - first), self.slots).zero_())
        self.reach = [0] * rows

    def hold(self, first_row: int, rows: int, slots: int) -> None:
        """Take note that a call reads and writes the first slots of some rows, and give all rows as many as they need.

        Args:
            first_row: Index of the first of these rows.
            rows: Their number.
            slots: How many slots of each of them; every call of a row reads all of its text.

        Raises:
            EngineError: There is no memory for more slots. All texts are lost then, until ``restart`` is called.
        """
        for row in range(first_row, first_row + rows):
            self.reach[row] = max(self.reach[row], slots)
        self._make_room(slots)

    def hold_round(self, rows: int, slots: int) -> None:
        """Take note of how many slots the calls of a round need, and make the memory longer or shorter accordingly.

        So it stays where it is while these calls run.

        Args:
            rows: Number of the rows of the round, which are the first ones.
            slots: How many slots of each of them the calls read or write.

        Raises:
            EngineError: As for ``hold``.
        """
        slots = min(slots, self.capacity)
        self.reach[:rows] = [slots] * rows
        target = slots_for(max(self.reach), self.capacity)
        if slots > self.slots or 2 * target <= self.slots:
            self.resize(target)

    def resize(self, slots: int) -> None:
        """Give every row so many slots, at most its capacity. The first ones stay as they are, new ones are zero.

        Raises:
            EngineError: There is no memory. All texts are lost then, until ``restart`` is called.
        """
        kept = min(slots, self.slots)
        try:
            if slots > self.slots and self.device.type == "cpu":
                self._check_room(slots)
            for index, old in enumerate(self.pieces):
                new = self._allocate(len(old), slots)
                new[:, :, :, :kept] = old[:, :, :, :kept]
                new[:, :, :, kept:] = 0
                self.pieces[index] = new
        except EngineError:
            self.pieces.clear()
            raise
        self.slots = slots
        self._give_back()

    def _allocate(self, parts: int, slots: int) -> torch.Tensor:
        self.generation += 1
        sizes = (parts, self.rows, self._heads, slots, self._size)
        try:
            with torch.inference_mode(False):  # what is made in that mode could not be written to outside of it
                return torch.empty(sizes, dtype=self._dtype, device=self.device)
        except (RuntimeError, AssertionError) as error:  # PyTorch asserts that it was built for the device
            raise self._too_large(slots, first_line(error)) from error

    def _check_room(self, slots: int) -> None:
        """Check that there is memory for so many slots, while a piece that is copied is there twice.

        Linux grants memory that does not exist, and kills the process that writes to it.

        Raises:
            EngineError: There is too little.
        """
        more = self.nbytes // self.slots * (slots - self.slots) + self.pieces[0].nbytes
        free = free_memory("cpu")
        if free is not None and more > free:
            reason = f"out of memory; {show_bytes(more)} more are needed, and {show_bytes(free)} are free."
            raise self._too_large(slots, reason)

    def _too_large(self, slots: int, reason: str) -> EngineError:
        return EngineError(
            f"There is no memory for a cache of {self.rows} rows of {slots} slots: {reason}",
            hint="Use a smaller batch size, or build the bundle with a smaller --capacity.",
        )

    def _give_back(self) -> None:
        """Give memory that is no longer used back to a GPU, where PyTorch would keep it and other libraries need it."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def parts(self, first_row: int = 0, rows: int | None = None) -> list[torch.Tensor]:
        """Return the parts [rows, Hk, S, head_size] in the order of ``past_names``, of some rows or of all."""
        end = None if rows is None else first_row + rows
        return [part for piece in self.pieces for part in piece[:, first_row:end].unbind(0)]

    def span(self, row: int, first: int, end: int) -> list[torch.Tensor]:
        """Return the slots ``first .. end - 1`` of a row, for each piece [P, Hk, end - first, head_size].

        They are views, until the memory moves. The row keeps these slots at least until it is read again.

        Raises:
            EngineError: There is no memory for as many slots. All texts are lost then, until ``restart`` is called.
        """
        self.reach[row] = max(self.reach[row], end)
        self._make_room(end)
        return [piece[:, row, :, first:end] for piece in self.pieces]

    def move(self, source: int, target: int, slots: int) -> None:
        """Copy the first slots of a row to another row, and leave it to be read anew."""
        for piece in self.pieces:
            piece[:, target, :, :slots] = piece[:, source, :, :slots]
        self.reach[target], self.reach[source] = self.reach[source], 0

    def _make_room(self, slots: int) -> None:
        if slots > self.slots:
            self.resize(slots_for(slots, self.capacity))

    def clear(self, row: int, first: int = 0) -> None:
        """Zero the slots of a row from ``first`` on, whose keys or values may not be finite.

        A mask gives hidden slots the weight zero, but zero times NaN is NaN, so a later text in the row would fail too.
        """
        for piece in self.pieces:
            piece[:, row, :, first:].zero_()

    def keep(self, base_B: torch.Tensor, accepted_BD: torch.Tensor, end: int) -> None:
        """Move the slots of the accepted nodes to directly after their root.

        The draft's cache is not fed leaves. What moves there for an accepted leaf means nothing, and may lie beyond the
        slots that were needed so far; then the cache gets more.

        Args:
            base_B: Slot of each row's root; node n is in slot ``base + n``.
            accepted_BD: Accepted nodes in path order, -1 padded.
            end: A slot behind all nodes of all rows, which the host knows without waiting for the device.

        Raises:
            EngineError: There is no memory for as many slots. All texts are lost then, until ``restart`` is called.
        """
        rows_B1 = torch.arange(len(base_B), device=base_B.device)[:, None]
        slots_BD = base_B[:, None] + 1 + torch.arange(accepted_BD.shape[1], device=base_B.device)
        # The padding moves a slot onto itself, so that all rows move the same number of slots.
        sources_BD = torch.where(accepted_BD < 0, slots_BD, base_B[:, None] + accepted_BD)
        self._make_room(end)
        for piece in self.pieces:
            piece[:, rows_B1, :, slots_BD] = piece[:, rows_B1, :, sources_BD]


def slots_for(needed: int, capacity: int) -> int:
    """Return how many slots a cache gets of which so many are needed: an eighth more, so that it seldom grows.

    A longer text needs more attention anyway, so slots to spare cost relatively little.
    """
    return min(aligned(needed + needed // 8), capacity)
