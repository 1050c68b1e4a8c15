"""Reads and writes the file of a model's weights in safetensors' format.

``writing`` writes it tensor by tensor. ``read_header`` says at which offset each tensor begins, so that an ONNX
graph can refer to the same bytes. The format is eight bytes with the length of the header, then the header in JSON,
then the data::

    {"__metadata__": {"format": "pt"}, "lm_head.weight": {"dtype": "BF16", "shape": [8, 4], "data_offsets": [0, 64]}}
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from spectr_runtime.bundle.weights import E4M3
from spectr_runtime.errors import BundleError

# Takes the next part of a tensor by the tensor's name.
Write = Callable[[str, torch.Tensor], None]
# The data begin at a multiple of this many bytes, and wider types come first, so that every tensor is aligned and can
# be mapped into memory without a copy.
ALIGNMENT = 64
SAFETENSORS_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.float8_e4m3fn: E4M3,
    torch.bool: "BOOL",
}


@dataclasses.dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor of a file: its type and shape, and the range of bytes that holds it.

    Attributes:
        offset: First byte, from the start of the file.
        length: Number of bytes.
        shape: Sizes of the tensor, row-major.
        dtype: Its type as safetensors names it, for instance ``BF16``.
    """

    offset: int
    length: int
    shape: tuple[int, ...]
    dtype: str


@dataclasses.dataclass(frozen=True, slots=True)
class Layout:
    """Type and shape of a tensor that is yet to be made.

    Attributes:
        dtype: Type of its numbers.
        shape: Its sizes.
    """

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Number of bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(path: Path) -> Mapping[str, TensorEntry]:
    """Return the entries of a safetensors file, by the names of the tensors.

    Raises:
        BundleError: The file is not a safetensors file, or it ends before its data do.
    """
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_length,) = struct.unpack("<Q", file.read(8))
            if header_length > size:
                raise ValueError(f"its header of {header_length} bytes is longer than the file")
            header = json.loads(file.read(header_length))
        start = 8 + header_length
        entries = {name: _read_entry(entry, start) for name, entry in header.items() if name != "__metadata__"}
    except (struct.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"{path} is not a safetensors file: {error}.", hint="Get the checkpoint again.") from error
    beyond = [name for name, entry in entries.items() if entry.offset + entry.length > size]
    if beyond:
        raise BundleError(
            f"{path} has {size} bytes and ends before its tensor {beyond[0]}.", hint="Get the checkpoint again."
        )
    return entries


@contextlib.contextmanager
def writing(path: Path, layouts: Mapping[str, Layout], metadata: Mapping[str, str]) -> Iterator[Write]:
    """Write a safetensors file while never more than one tensor, or a part of one, is in memory.

    The header is written first, from the layouts. Each tensor is written at its offset when it comes, in any order.

    Args:
        path: The file to write.
        layouts: Type and shape of every tensor of the file.
        metadata: The file's ``__metadata__``.

    Yields:
        A function that takes each tensor by its name: whole, or in consecutive parts of its first dimension.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name, layout in sorted(layouts.items(), key=lambda item: -item[1].dtype.itemsize):
        begin, end = end, end + layout.length
        dtype = SAFETENSORS_DTYPES[layout.dtype]
        header[name] = {"dtype": dtype, "shape": list(layout.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % ALIGNMENT)
    written = dict.fromkeys(layouts, 0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)

        def write(name: str, tensor: torch.Tensor) -> None:
            layout, begin = layouts[name], header[name]["data_offsets"][0]
            assert (tensor.dtype, tuple(tensor.shape[1:])) == (layout.dtype, layout.shape[1:]), name
            file.seek(8 + len(text) + begin + written[name])
            # The tensor is handed over as bytes, because numpy has no bfloat16.
            file.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            written[name] += tensor.nbytes

        yield write
    assert written == {name: layout.length for name, layout in layouts.items()}, path


def _read_entry(entry: Mapping[str, Any], start: int) -> TensorEntry:
    begin, end = entry["data_offsets"]
    return TensorEntry(start + begin, end - begin, tuple(entry["shape"]), entry["dtype"])
