"""Rounding the rows of what a product multiplies to integers, as models in int8 do.

The largest magnitude of a row gets the largest code, and every other number the nearest one, with ties to even. So what
becomes of a row depends on this row alone, and the sums of such a product are sums of integers, which are the same in
any order. The metadata of a weights file name the matrices whose inputs are rounded, with the largest code of each::

    "input_levels": '{"model.layers.0.mlp.down_proj.weight": 127, "lm_head.weight": 8191}'

A row has few numbers that are much larger than the rest, nearly always at the same places, and they would leave the
others few codes. So rows are divided by scales before, place by place, and the matrix is multiplied with these
(SmoothQuant, Xiao et al. 2022, arXiv 2211.10438); ``spectr_runtime.bundle.weights`` reads them.

Weights that meet inputs of 8 bits have codes of 7. Processors without an instruction for it (AVX2) add two products of
8 bits in 16, which 255 * 63 * 2 never leaves and 255 * 127 * 2 would. Inputs of ``FINE`` levels, more than a code of 8
bits has, are multiplied as two digits to the base ``BASE``, each of 7 bits and a sign, so that weights have all 8 bits.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from spectr_runtime.errors import BundleError

LEVELS = 127  # the largest code of an input
LARGEST_CODE = 63  # of a weight that it meets
FINE, FINE_LARGEST_CODE = 8191, 127  # the same for the layer that gives the logits
BASE = 128
# Stands for the largest magnitude of a row that has none as large, so that a row of zeros is not divided by 0.
LEAST = 1e-30
METADATA = "input_levels"


def round_rows(numbers: torch.Tensor, levels: int) -> torch.Tensor:
    """Round each row to ``levels`` numbers on both sides of zero, in float32; shape and type stay.

    Args:
        numbers: The rows [..., K], of any floating-point type.
        levels: The largest code.
    """
    wide, most = numbers.float(), torch.full((), float(levels), device=numbers.device)
    largest = wide.abs().amax(-1, keepdim=True).clamp(min=LEAST)
    return ((wide * (most / largest)).round() * (largest / most)).to(numbers.dtype)


def levels_to_metadata(levels: Mapping[str, int]) -> dict[str, str]:
    """Return the largest codes of inputs, by the names of the matrices, as metadata of a weights file."""
    return {METADATA: json.dumps(dict(levels))} if levels else {}


def read_levels(path: Path) -> dict[str, int]:
    """Read the largest codes of inputs by the names of the matrices; none for models that do not round them by rows.

    Raises:
        BundleError: The metadata are malformed.
        OSError: There is no such file.
        SafetensorError: The file is not in the safetensors format.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(METADATA, "{}")
    try:
        levels = json.loads(text)
    except (ValueError, RecursionError):
        levels = None
    if not isinstance(levels, dict) or not all(type(most) is int and 0 < most < 2**15 for most in levels.values()):
        raise BundleError(f"{path} says malformed things of {METADATA}: {text:.80}.", hint="Build the bundle again.")
    return levels
