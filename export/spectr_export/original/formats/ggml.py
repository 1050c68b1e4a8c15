"""The blocks of GGUF files, by the names that ggml has for their types.

Source: the structures ``block_q4_0`` to ``block_q6_K`` of ggml (``ggml-common.h``), and how ``ggml-quants.c`` reads
them. A row of a matrix is a sequence of blocks, and a block its codes between a few small fields; d and m are float16.

    Q4_0   32 codes   d, 16 bytes of two codes                             weight = d * (q - 8)
    Q4_1   32         d, m, 16 bytes                                       d * q + m
    Q5_0   32         d, 4 bytes of fifth bits, 16 bytes                   d * (q - 16)
    Q5_1   32         d, m, 4 bytes of fifth bits, 16 bytes                d * q + m
    Q8_0   32         d, 32 bytes                                          d * q
    Q4_K   8 x 32     d, m, 12 bytes of six-bit factors s and t, 128       (d * s) * q - m * t
    Q5_K   8 x 32     d, m, 12 bytes, 32 bytes of fifth bits, 128          (d * s) * q - m * t
    Q6_K   16 x 16    128 bytes, 64 bytes of upper bits, 16 factors s, d   (d * s) * (q - 32)
"""

# N outputs, S blocks of a file in a row, G blocks that share a scale, B inputs of such a block.
from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from spectr_export.original.formats.blocks import Blocks


class Layout(NamedTuple):
    """How a type of ggml is laid out.

    Attributes:
        bytes: Bytes of a block.
        inputs: Inputs of a block.
        block: Inputs that share a scale.
        code: Type of the codes that ``read`` gives.
        minima: Whether there are minima.
        read: Reads codes [N, S, inputs], scales and minima, each [N, S, G], from blocks [N, S, bytes].
    """

    bytes: int
    inputs: int
    block: int
    code: str
    minima: bool
    read: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]


def read_blocks(rows_NB: torch.Tensor, layout: Layout) -> Blocks:
    """Read the blocks of a matrix.

    Args:
        rows_NB: The bytes of each row.
        layout: The layout of the type.
    """
    outputs = len(rows_NB)
    codes, scales, minima = layout.read(rows_NB.view(outputs, -1, layout.bytes))
    flat_minima = None if minima is None else minima.reshape(outputs, -1)
    return Blocks(codes.reshape(outputs, -1), scales.reshape(outputs, -1), flat_minima)


def _q4_0(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    return _nibbles(blocks[..., 2:18]) - 8, _half(blocks, 0), None


def _q4_1(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _centred(_nibbles(blocks[..., 4:20]), _half(blocks, 0), _half(blocks, 2), half=8)


def _q5_0(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    return (_nibbles(blocks[..., 6:22]) | _fifth_bits(blocks[..., 2:6])) - 16, _half(blocks, 0), None


def _q5_1(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    codes = _nibbles(blocks[..., 8:24]) | _fifth_bits(blocks[..., 4:8])
    return _centred(codes, _half(blocks, 0), _half(blocks, 2), half=16)


def _q8_0(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    return blocks[..., 2:34].contiguous().view(torch.int8), _half(blocks, 0), None


def _q4_k(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return _centred(_halves(blocks[..., 16:144]).flatten(-2), *_factors(blocks), half=8)


def _q5_k(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    upper = (blocks[..., None, 16:48] >> torch.arange(8, dtype=torch.uint8)[:, None]) & 1
    codes = _halves(blocks[..., 48:176]) | (upper.view(torch.int8) << 4)
    return _centred(codes.flatten(-2), *_factors(blocks), half=16)


def _q6_k(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
    # In each half of a block, the four runs of 32 codes share 64 bytes of lower and 32 of upper bits.
    low = _parted(blocks[..., :128], 2, 64)
    high = _parted(blocks[..., 128:192], 2, 1, 32) >> torch.arange(0, 8, 2, dtype=torch.uint8)[:, None]
    lower = torch.cat((low & 15, low >> 4), dim=-1)
    codes = (lower | ((high & 3) << 4).flatten(-2)).flatten(-2).view(torch.int8) - 32
    factors = blocks[..., 192:208].contiguous().view(torch.int8)
    return codes, _half(blocks, 208) * factors, None


def _centred(
    codes: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor, *, half: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return signed codes of unsigned ones, and the minima that belong to them."""
    return codes - half, scales, minima + half * scales


def _half(blocks: torch.Tensor, start: int) -> torch.Tensor:
    """Return the float16 at a byte of each block, in float32 with a last dimension of one."""
    return blocks[..., start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(data: torch.Tensor) -> torch.Tensor:
    """Return the lower halves of all bytes, then the upper ones."""
    return torch.cat((data & 15, data >> 4), dim=-1).view(torch.int8)


def _fifth_bits(data: torch.Tensor) -> torch.Tensor:
    """Return bit number i of four bytes for code number i, in its place as the fifth bit of the code."""
    bits = (data[..., None] >> torch.arange(8, dtype=torch.uint8)) & 1
    return bits.flatten(-2).view(torch.int8) << 4


def _halves(data: torch.Tensor) -> torch.Tensor:
    """Return the codes of the eight parts of a block [..., 8, 32]: two parts share each 32 bytes."""
    runs = _parted(data, 4, 1, 32)
    return torch.cat((runs & 15, runs >> 4), dim=-2).flatten(-3, -2).view(torch.int8)


def _factors(blocks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the scales and minima of the eight parts of a block, which have six-bit factors in twelve bytes."""
    first, second, third = _parted(blocks[..., 4:16], 3, 4).unbind(-2)
    scales = torch.cat((first & 63, (third & 15) | ((first >> 6) << 4)), dim=-1)
    minima = torch.cat((second & 63, (third >> 4) | ((second >> 6) << 4)), dim=-1)
    return _half(blocks, 0) * scales, -_half(blocks, 2) * minima


def _parted(data: torch.Tensor, *sizes: int) -> torch.Tensor:
    """Return the last dimension in parts of these sizes."""
    return data.reshape(*data.shape[:-1], *sizes)


LAYOUTS = {
    "Q4_0": Layout(18, 32, 32, "int4", False, _q4_0),
    "Q4_1": Layout(20, 32, 32, "int4", True, _q4_1),
    "Q5_0": Layout(22, 32, 32, "int8", False, _q5_0),
    "Q5_1": Layout(24, 32, 32, "int8", True, _q5_1),
    "Q8_0": Layout(34, 32, 32, "int8", False, _q8_0),
    "Q4_K": Layout(144, 256, 32, "int4", True, _q4_k),
    "Q5_K": Layout(176, 256, 32, "int8", True, _q5_k),
    "Q6_K": Layout(210, 256, 16, "int8", False, _q6_k),
}
