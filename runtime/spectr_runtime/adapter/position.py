"""Distances between tokens, derived from the attention mask.

The slots that a token sees hold, in slot order, the text that ends in it: the committed prefix, then its ancestors in
the tree, then the token itself. So the distance from a visible slot to the token is the number of visible slots after
that slot, whatever the hidden ones hold. A call therefore needs no input for the positions of slots.

For example, the mask 1 1 0 1 of a token in the last slot has the distances 2 1 - 0.
"""

# B rows, H query heads, T tokens fed, L attention length.
from __future__ import annotations

import torch

# The score of a hidden slot: far below every other and within float16. Minus infinity would turn the attention of a
# token that sees nothing into NaN.
HIDDEN = -1e4


def distances(mask_B1TL: torch.Tensor) -> torch.Tensor:
    """Return the distance in tokens from each visible slot to the fed token; int64 [B, 1, T, L].

    The entries of hidden slots mean nothing.
    """
    seen_B1TL = mask_B1TL.to(torch.int64).cumsum(-1)
    return seen_B1TL[..., -1:] - seen_B1TL


def windowed(mask_B1TL: torch.Tensor, window: int) -> torch.Tensor:
    """Return the mask of a layer whose tokens see the last ``window`` tokens of their text, themselves included."""
    return mask_B1TL & (distances(mask_B1TL) < window)


def linear_biases(mask_B1TL: torch.Tensor, slopes_H: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the additive mask of attention with linear biases (ALiBi, arXiv 2108.12409); [B, H, T, L]."""
    biases_BHTL = -slopes_H[:, None, None] * distances(mask_B1TL).float()
    return torch.where(mask_B1TL, biases_BHTL, HIDDEN).to(dtype)
