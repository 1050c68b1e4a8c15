"""Rounding to E4M3, the eight-bit floating-point numbers that fp8 models multiply.

E4M3 has four bits of exponent, three of fraction and no infinities (Micikevicius et al., arXiv 2209.05433). A number is
divided by a scale, in float32, and rounded once, to the nearest code with ties to even; beyond the largest code it
becomes the largest. ONNX's QuantizeLinear and DequantizeLinear do exactly the same, to the last bit.
"""

from __future__ import annotations

import torch

LARGEST = 448.0


def encode(numbers: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
    """Return the codes of some numbers, in ``float8_e4m3fn``.

    Args:
        numbers: The numbers, of any floating-point type.
        scales: Their scales, all positive, in a shape that broadcasts to that of the numbers.
    """
    return (numbers.float() / scales.float()).clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)
