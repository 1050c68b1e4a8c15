"""Which cache slots a fed token sees."""

# B rows, T tokens fed, N slots of the block behind the prefix, L attention length, S slots.
from __future__ import annotations

import torch

ALIGNMENT = 64  # attention lengths are rounded up to this, so that shapes and kernels are reused


def aligned(length: int) -> int:
    """A number of slots rounded up to the alignment."""
    return -(-length // ALIGNMENT) * ALIGNMENT


def block_mask(prefix_B: torch.Tensor, sees_TN: torch.Tensor, length: int) -> torch.Tensor:
    """The mask of tokens that see a row's prefix and part of a block behind it.

    Args:
        prefix_B: Slots of each row that every fed token sees.
        sees_TN: Which slots of the block behind the prefix a token sees: ancestors and itself in a draft tree, a
            triangle in plain text; bool.
        length: Attention length L; ``prefix + N <= L``.

    Returns:
        Bool [B, 1, T, L], True where the token sees the slot.
    """
    offset_BL = torch.arange(length, device=prefix_B.device) - prefix_B[:, None]
    block = sees_TN.shape[1]
    in_block_BTL = sees_TN[:, offset_BL.clamp(0, block - 1)].transpose(0, 1)
    seen_BTL = torch.where((offset_BL < 0)[:, None], True, in_block_BTL & (offset_BL < block)[:, None])
    return seen_BTL[:, None]


def triangle(tokens: int, device: torch.device) -> torch.Tensor:
    """Plain text: every token sees those before it and itself; bool [T, T]."""
    return torch.ones((tokens, tokens), dtype=torch.bool, device=device).tril()
