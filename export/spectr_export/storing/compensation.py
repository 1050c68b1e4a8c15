"""Rounds a matrix to int4 so that the weights that are still to be rounded make up for the errors of the others (GPTQ).

What is kept small is not the error of the weights but that of the layer's outputs, on inputs that the layer had while
the model read a text. The method is GPTQ (Frantar et al. 2022, arXiv 2210.17323) in the form that Chee et al. 2023
(arXiv 2307.13304, theorem 6) show to be the same: with H = X'X = L D L' and L lower triangular of unit diagonal, a
weight is rounded after what the errors of the weights behind it, times their entries in its column of L, is added. So
the matrix is worked on from its last input to its first, and no inverse is needed. The blocks' levels are chosen for
the weights as they would be at this point if nothing of the block were to be rounded.
"""

# T tokens, K inputs of a linear layer, N outputs, B inputs of a block, G blocks.
from __future__ import annotations

import torch

from spectr_export.storing.levels import BLOCK, LEAST, MOST, Chooser, Levels

# The part of the mean square of the inputs that is added to each of their squares, as in GPTQ: few tokens say little
# about many inputs.
DAMPING = 0.01


def measure_feedback(inputs_TK: torch.Tensor) -> torch.Tensor | None:
    """Return the factor L [K, K] of the inputs of a layer, or None if they are all 0, not finite, or none at all.

    Args:
        inputs_TK: What the layer multiplies with its matrix, for every token of a text, in float32.
    """
    hessian_KK = inputs_TK.T @ inputs_TK
    squares_K = hessian_KK.diagonal()
    squares_K += DAMPING * squares_K.mean()
    factor_KK: torch.Tensor
    factor_KK, failed = torch.linalg.cholesky_ex(hessian_KK)
    if failed or not 0 < float(squares_K.sum()) < torch.inf:
        return None
    factor_KK /= factor_KK.diagonal().clone()
    return factor_KK


def quantise_compensated(
    matrix_NK: torch.Tensor, feedback_KK: torch.Tensor, choose: Chooser, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Round a matrix, the later inputs first, each with what makes up for the errors so far.

    Args:
        matrix_NK: The matrix of a linear layer, in any type; K is a multiple of ``BLOCK``.
        feedback_KK: The result of ``measure_feedback``.
        choose: The form of the levels: ``symmetric`` or ``asymmetric``.
        dtype: Type of the scales and minima.

    Returns:
        The codes [K, N], int8 from -8 to 7; the scales and the minima [G, N] in ``dtype``. A weight is its code times
        its scale, plus its minimum.
    """
    # Rows are weights until they are rounded, and the errors of the rounded weights from then on.
    errors_KN = matrix_NK.T.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    codes_KN = torch.empty(errors_KN.shape, dtype=torch.int8)
    chosen = []
    for start in reversed(range(0, len(errors_KN), BLOCK)):
        block, behind = slice(start, start + BLOCK), slice(start + BLOCK, None)
        weights_BN, feedback_BB = errors_KN[block], feedback_KK[block, block]
        carried_BN = feedback_KK[behind, block].T @ errors_KN[behind]
        unrounded_BN = torch.linalg.solve_triangular(feedback_BB.T, carried_BN, upper=True, unitriangular=True)
        levels = choose(unrounded_BN.add_(weights_BN), dtype)
        chosen.append(levels)
        codes_BN = _round_block(weights_BN, weights_BN + carried_BN, feedback_BB, levels)
        codes_KN[block] = codes_BN
        weights_BN -= levels.decode(codes_BN)
    scales_GN = torch.cat([levels.scales for levels in reversed(chosen)]).to(dtype)
    minima_GN = torch.cat([levels.minima for levels in reversed(chosen)]).to(dtype)
    return codes_KN, scales_GN, minima_GN


def _round_block(
    weights_BN: torch.Tensor, wanted_BN: torch.Tensor, feedback_BB: torch.Tensor, levels: Levels
) -> torch.Tensor:
    """Return the codes of a block.

    Args:
        weights_BN: The block's own weights.
        wanted_BN: The same with what makes up for the errors of the blocks behind it.
        feedback_BB: The block's part of the factor.
        levels: The block's levels.
    """
    # In steps of the scales a code is its own weight, which saves most of the work on a single input.
    errors_BN, codes_BN = ((part - levels.minima) / levels.scales for part in (weights_BN, wanted_BN))
    for place in reversed(range(BLOCK)):
        one, later = codes_BN[place : place + 1], slice(place + 1, None)
        one.addmm_(feedback_BB[later, place : place + 1].T, errors_BN[later]).round_().clamp_(LEAST, MOST)
        errors_BN[place : place + 1] -= one
    return codes_BN
