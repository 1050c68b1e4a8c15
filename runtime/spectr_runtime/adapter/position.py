"""Positions of cache slots, read off the mask.

The slots that a token sees are, in slot order, the text that ends in it: the committed prefix, then its ancestors in
the tree, then itself. So a visible slot's distance to the token is the number of visible slots behind it, whatever
stands in the hidden ones between, and no second input has to tell the positions of slots.
"""

# B rows, H query heads, T tokens fed, L attention length.
from __future__ import annotations

from collections.abc import Sequence

import torch

# Far below every score and within float16; minus infinity would turn a row that sees nothing into NaN.
HIDDEN = -1e4


def distances(mask_B1TL: torch.Tensor) -> torch.Tensor:
    """How far behind a token the slots that it sees stand, in tokens; int64 [B, 1, T, L], meaningless where hidden."""
    seen_B1TL = mask_B1TL.to(torch.int64).cumsum(-1)
    return seen_B1TL[..., -1:] - seen_B1TL


def windowed(mask_B1TL: torch.Tensor, window: int) -> torch.Tensor:
    """The mask of a layer whose tokens see the last ``window`` tokens of their text, themselves included."""
    return mask_B1TL & (distances(mask_B1TL) < window)


def linear_biases(mask_B1TL: torch.Tensor, slopes_H: Sequence[float], dtype: torch.dtype) -> torch.Tensor:
    """The additive mask of attention with linear biases (ALiBi, arXiv 2108.12409); [B, H, T, L]."""
    slopes_H11 = torch.tensor(slopes_H, dtype=torch.float32, device=mask_B1TL.device)[:, None, None]
    biases_BHTL = -slopes_H11 * distances(mask_B1TL).float()
    return torch.where(mask_B1TL, biases_BHTL, HIDDEN).to(dtype)
