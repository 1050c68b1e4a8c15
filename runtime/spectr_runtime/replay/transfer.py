"""Numbers that go to a device in one copy, and come back in one.

A copy costs a launch and some microseconds, whatever its size, and one that waits costs much more. So everything that a
round is told travels as one vector of 64-bit words, and so does everything that it tells. Integers are words as they
are, and other numbers are float64, bit by bit; float32 goes there and back without loss.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from math import prod

import torch

Layout = Mapping[str, tuple[int, ...]]  # the shapes of some tensors by their names, in their order in the vector
SIDES = 2  # while the device may still read one side, the host writes the other


class Parcel:
    """Numbers by their names, one after the other.

    Attributes:
        words: The numbers so far.
        layout: Their names and shapes.
    """

    def __init__(self) -> None:
        self.words = array("q")
        self.layout: dict[str, tuple[int, ...]] = {}

    def integers(self, name: str, values: Sequence[int], *shape: int) -> None:
        """Add integers; they form a vector if no shape is given."""
        self._note(name, len(values), shape)
        self.words.extend(values)

    def numbers(self, name: str, values: Sequence[float], *shape: int) -> None:
        """Add numbers as float64; they form a vector if no shape is given."""
        self._note(name, len(values), shape)
        self.words.frombytes(array("d", values).tobytes())

    def append(self, other: Parcel) -> None:
        """Add what another parcel holds."""
        self.layout |= other.layout
        self.words.extend(other.words)

    def _note(self, name: str, count: int, shape: tuple[int, ...]) -> None:
        self.layout[name] = shape or (count,)
        assert prod(self.layout[name]) == count


class Upload:
    """Memory on a device for parcels of one layout; it stays where it is.

    Args:
        layout: The layout.
        device: The device.

    Attributes:
        tensors: What was sent last, by name; int64. Numbers that are no integers need ``numbers``.
    """

    def __init__(self, layout: Layout, device: torch.device) -> None:
        size = sum(map(prod, layout.values()))
        pinned = device.type == "cuda"  # else a copy waits until the device is done with all that came before
        self._words = torch.zeros(size, dtype=torch.int64, device=device)
        self._sides = [torch.empty(size, dtype=torch.int64, pin_memory=pinned) for _ in range(SIDES)]
        self._turn = 0
        self.tensors = split(self._words, layout)

    def send(self, parcel: Parcel) -> None:
        """Copy a parcel to the device, in the order of its work.

        Between a parcel and the one after the next, the caller waits for work that came after the first one.
        """
        side = self._sides[self._turn % SIDES]
        self._turn += 1
        side.copy_(torch.frombuffer(parcel.words, dtype=torch.int64))
        self._words.copy_(side, non_blocking=True)


class Download:
    """A vector that is on its way from the device.

    Args:
        words: The vector; it may be written to again, in the order of the device's work, once this is made.
        layout: What it holds.
    """

    def __init__(self, words: torch.Tensor, layout: Layout) -> None:
        self._layout = layout
        self._event: torch.cuda.Event | None = None
        if words.device.type == "cpu":
            self._words = words.clone()
        else:
            self._words = torch.empty(words.shape, dtype=words.dtype, pin_memory=True)
            self._words.copy_(words, non_blocking=True)
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record(torch.cuda.current_stream(words.device))

    def tensors(self) -> dict[str, torch.Tensor]:
        """Return the tensors by name, on the host, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return split(self._words, self._layout)


def joined(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return tensors of integers, truth values and numbers as one vector of words."""
    words = [one.double().view(torch.int64) if one.is_floating_point() else one.long() for one in tensors.values()]
    return torch.cat([one.flatten() for one in words])


def split(words: torch.Tensor, layout: Layout) -> dict[str, torch.Tensor]:
    """Return the tensors that a vector of words holds, as views of it."""
    parts = torch.split(words, [prod(shape) for shape in layout.values()])
    return {name: part.view(shape) for (name, shape), part in zip(layout.items(), parts, strict=True)}


def numbers(words: torch.Tensor) -> torch.Tensor:
    """Return words that stand for numbers as float64."""
    return words.view(torch.float64)
