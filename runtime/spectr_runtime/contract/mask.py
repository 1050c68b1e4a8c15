"""The attention mask of a call: which slots of the cache a fed token sees."""

# B rows, T tokens fed, N slots of the block after the prefix, L attention length.
from __future__ import annotations

import torch

ALIGNMENT = 64  # attention lengths are multiples of it, so that calls share shapes, and with them kernels


def aligned(length: int) -> int:
    """Return a number of slots rounded up to a multiple of the alignment."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def block_mask(prefix_B: torch.Tensor, sees_TN: torch.Tensor, length: int) -> torch.Tensor:
    """Return the mask of tokens that see the whole prefix of their row and part of a block after it.

    Args:
        prefix_B: Number of slots at the start of each row that every fed token sees.
        sees_TN: Which slots of the block after the prefix each token sees; bool. In a draft tree these are the token's
            ancestors and itself, in plain text the tokens before it and itself.
        length: Attention length L, at least ``prefix + N``.

    Returns:
        Bool [B, 1, T, L], True where the token sees the slot.
    """
    offset_BL = torch.arange(length, device=prefix_B.device) - prefix_B[:, None]
    block = sees_TN.shape[1]
    in_block_BTL = sees_TN[:, offset_BL.clamp(0, block - 1)].transpose(0, 1)
    seen_BTL = torch.where((offset_BL < 0)[:, None], True, in_block_BTL & (offset_BL < block)[:, None])
    return seen_BTL[:, None]


def triangle(tokens: int, device: torch.device) -> torch.Tensor:
    """Return which tokens each token of a plain text sees: those before it and itself; bool [T, T]."""
    return torch.ones((tokens, tokens), dtype=torch.bool, device=device).tril()
