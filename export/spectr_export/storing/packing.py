"""Puts the blocks of a quantised checkpoint into the form in which a bundle holds them, number for number."""

# K inputs, N outputs, G blocks.
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from spectr_export.original.formats.blocks import Blocks, Form
from spectr_export.weights import Layout
from spectr_runtime.bundle.weights import CODES, MINIMA, SCALES

TYPES = {"int4": torch.uint8, "int8": torch.int8, "fp8": torch.float8_e4m3fn}


def packed_layouts(shape: Sequence[int], form: Form, dtype: torch.dtype) -> dict[str, Layout]:
    """Return the layouts of the tensors that ``pack`` makes, by their suffixes.

    Args:
        shape: Outputs and inputs of the matrix.
        form: The form.
        dtype: Type of scales and minima.
    """
    outputs, inputs = shape
    blocks = (inputs // form.block, outputs) if form.block else (1, outputs)
    layouts = {
        CODES: Layout(TYPES[form.code], (inputs, outputs // 2 if form.code == "int4" else outputs)),
        SCALES: Layout(dtype, blocks if form.block else (outputs,)),
    }
    return {**layouts, MINIMA: Layout(dtype, blocks)} if form.minima else layouts


def pack(blocks: Blocks, form: Form, dtype: torch.dtype) -> Mapping[str, torch.Tensor]:
    """Return the tensors of a matrix by their suffixes, in the form that ``spectr_runtime.bundle.weights`` reads.

    Args:
        blocks: The matrix.
        form: A form that holds its blocks.
        dtype: Type of scales and minima.
    """
    codes_NK, scales_NG = _without_zeros(blocks.codes_NK, blocks.scales_NG.float())
    if form.code == "int8":
        codes_NK, scales_NG = _without_signs(codes_NK, scales_NG)
    codes_KN = codes_NK.T.contiguous()
    if form.code == "int4":
        codes_KN = join_codes(codes_KN)
    packed = {CODES: codes_KN, SCALES: _spread(scales_NG, codes_NK.shape[1], form).to(dtype)}
    if form.minima:
        minima_NG = torch.zeros_like(scales_NG) if blocks.minima_NG is None else blocks.minima_NG.float()
        packed[MINIMA] = _spread(minima_NG, codes_NK.shape[1], form).view(-1, len(codes_NK)).to(dtype)
    return packed


def join_codes(codes_KN: torch.Tensor) -> torch.Tensor:
    """Return codes -8 to 7 as bytes [K, N / 2], each with the code of the even output in its low half."""
    halves_KN = codes_KN.view(torch.uint8) & 15
    return halves_KN[:, 0::2] | (halves_KN[:, 1::2] << 4)


def _spread(values_NG: torch.Tensor, inputs: int, form: Form) -> torch.Tensor:
    """Return scales or minima in the form's layout, [N] or [G, N], repeated where its blocks are smaller."""
    if form.block is None:
        return values_NG.flatten().contiguous()
    return values_NG.repeat_interleave(inputs // form.block // values_NG.shape[1], 1).T.contiguous()


def _without_zeros(codes_NK: torch.Tensor, scales_NG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same numbers with codes 0 and a scale of 1 in place of scales of 0, which TensorRT refuses."""
    empty_NG = scales_NG == 0
    if not empty_NG.any():
        return codes_NK, scales_NG
    blocks = codes_NK.view(*scales_NG.shape, -1)
    zeros = torch.zeros((), dtype=codes_NK.dtype)
    return torch.where(empty_NG[..., None], zeros, blocks).flatten(1), scales_NG.where(~empty_NG, 1)


def _without_signs(codes_NK: torch.Tensor, scales_NG: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the same numbers with positive scales, because TensorRT takes negative ones for int4 alone.

    The signs go to the codes, unless one of them is -128, which no format uses together with negative scales.
    """
    if not (scales_NG < 0).any() or (codes_NK == -128).any():
        return codes_NK, scales_NG
    signs_NG1 = torch.where(scales_NG < 0, -1, 1).to(torch.int8)[..., None]
    blocks = codes_NK.view(*scales_NG.shape, -1)
    return (blocks * signs_NG1).flatten(1), scales_NG.abs()
