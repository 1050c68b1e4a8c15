"""The sixteen levels that the weights of a block can have in int4, and the ways to choose them.

A level is scale * code + minimum, with a code from -8 to 7. In the symmetric form, which TensorRT reads, every minimum
is 0. Levels are stored in the model's type, so errors are those of the numbers that are stored.
"""

# B weights of a block, N outputs; other sizes may stand in front of them.
from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator

import torch

BLOCK = 32
LEAST, MOST = -8, 7
# Fractions of a block's range that the levels may span: some weights beyond them cost less than wider steps for all.
CLIPPING = (1.0, 0.95, 0.9, 0.85, 0.8)
# How often the levels of the asymmetric form are fitted again to the codes that they give.
FITS = 4


@dataclasses.dataclass(frozen=True, slots=True)
class Levels:
    """The levels of one block of every output.

    Attributes:
        scales: Distances between levels [..., 1, N] in float32, positive.
        minima: Levels of code 0 [..., 1, N] in float32.
    """

    scales: torch.Tensor
    minima: torch.Tensor

    @staticmethod
    def of(scales: torch.Tensor, minima: torch.Tensor, dtype: torch.dtype) -> Levels:
        """Make levels of numbers of a type, with 1 in place of scales that are not positive in it."""
        return Levels(positive(scales.to(dtype)).float(), minima.to(dtype).float())

    def encode(self, weights_BN: torch.Tensor) -> torch.Tensor:
        """Return the codes of the nearest levels, in float32."""
        return ((weights_BN - self.minima) / self.scales).round_().clamp_(LEAST, MOST)

    def decode(self, codes_BN: torch.Tensor) -> torch.Tensor:
        """Return the weights that codes stand for."""
        return codes_BN * self.scales + self.minima


# Chooses the levels for weights [..., B, N], as numbers of a type.
Chooser = Callable[[torch.Tensor, torch.dtype], Levels]


def symmetric(weights_BN: torch.Tensor, dtype: torch.dtype) -> Levels:
    """Choose the symmetric levels with the least squared error among those of ``CLIPPING``."""
    least, most = torch.aminmax(weights_BN, dim=-2, keepdim=True)
    full, zeros = torch.maximum(least / LEAST, most / MOST), torch.zeros_like(most)
    return _best(weights_BN, (Levels.of(full * fraction, zeros, dtype) for fraction in CLIPPING))


def asymmetric(weights_BN: torch.Tensor, dtype: torch.dtype) -> Levels:
    """Choose levels between any two ends: the best of ``CLIPPING``, then fitted to their own codes by least squares.

    The fit is that of llama.cpp's formats with a minimum (``make_qkx2_quants`` in ``ggml-quants.c``), with all weights
    counted alike.
    """
    least, most = torch.aminmax(weights_BN, dim=-2, keepdim=True)
    scales = [fraction * (most - least) / (MOST - LEAST) for fraction in CLIPPING]
    middles = [(least + most) / 2 - scale * (LEAST + MOST) / 2 for scale in scales]
    clipped = _best(weights_BN, (Levels.of(*ends, dtype) for ends in zip(scales, middles, strict=True)))
    return _best(weights_BN, [clipped, *_fitted(weights_BN, clipped, dtype)])


def _fitted(weights_BN: torch.Tensor, levels: Levels, dtype: torch.dtype) -> Iterator[Levels]:
    """Yield the levels that are nearest to the weights if these keep their codes, and again for their new codes."""
    mean = weights_BN.mean(-2, keepdim=True)
    for _ in range(FITS):
        codes_BN = levels.encode(weights_BN)
        middle = codes_BN.mean(-2, keepdim=True)
        centred_BN = codes_BN - middle
        spread = positive(centred_BN.square().sum(-2, keepdim=True))
        scales = (centred_BN * weights_BN).sum(-2, keepdim=True) / spread
        levels = Levels.of(scales, mean - scales * middle, dtype)
        yield levels


def _best(weights_BN: torch.Tensor, candidates: Iterable[Levels]) -> Levels:
    """Return the levels with the least squared error, for each block and output its own."""
    scales = minima = torch.zeros(())
    least = torch.tensor(torch.inf)
    for levels in candidates:
        error = (levels.decode(levels.encode(weights_BN)) - weights_BN).square_().sum(-2, keepdim=True)
        better = error < least
        scales, minima = torch.where(better, levels.scales, scales), torch.where(better, levels.minima, minima)
        least = torch.minimum(error, least)
    return Levels(scales, minima)


def positive(scales: torch.Tensor) -> torch.Tensor:
    """Return the scales with 1 in place of those that are not positive.

    A scale is 0 where all weights are equal, which the minimum or any scale gives as well, and TensorRT refuses it.
    """
    return scales.where(scales > 0, 1)
