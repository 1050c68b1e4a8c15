"""Where a tensor's bytes stand in a safetensors file, so that an ONNX graph can point at them."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Mapping
from pathlib import Path

WEIGHTS = "model.safetensors"


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """One tensor's bytes.

    Attributes:
        offset: First byte, from the start of the file.
        length: Number of bytes.
        shape: Sizes of the tensor, row-major.
    """

    offset: int
    length: int
    shape: tuple[int, ...]


def read_places(path: Path) -> Mapping[str, Place]:
    """Read the header of a safetensors file: eight bytes of length, then JSON, then the data."""
    with path.open("rb") as file:
        (header_length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(header_length))
    start = 8 + header_length
    return {name: _place(entry, start) for name, entry in header.items() if name != "__metadata__"}


def _place(entry: Mapping[str, list[int]], start: int) -> Place:
    begin, end = entry["data_offsets"]
    return Place(start + begin, end - begin, tuple(entry["shape"]))
