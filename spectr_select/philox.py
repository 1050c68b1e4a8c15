"""Philox 4x32-10, a counter-based random number generator (Salmon et al., SC 2011), in integer tensor operations."""

from __future__ import annotations

import torch

_LOW = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox(counter: Words, key: tuple[torch.Tensor, torch.Tensor]) -> Words:
    """Four random 32-bit words for every counter.

    Args:
        counter: Four words, int64 tensors of values in [0, 2^32) whose shapes broadcast.
        key: Two words, likewise.

    Returns:
        Four words, int64 tensors of values in [0, 2^32).
    """
    first, second, third, fourth = counter
    low_key, high_key = key
    for _ in range(_ROUNDS):
        low_product, high_product = first * _MULTIPLIERS[0], third * _MULTIPLIERS[1]
        first = _high(high_product) ^ second ^ low_key
        third = _high(low_product) ^ fourth ^ high_key
        second, fourth = high_product & _LOW, low_product & _LOW
        low_key, high_key = (low_key + _WEYL[0]) & _LOW, (high_key + _WEYL[1]) & _LOW
    return first, second, third, fourth


def _high(product: torch.Tensor) -> torch.Tensor:
    # The product of two words wraps to a negative int64; the mask takes away what the signed shift fills in.
    return (product >> 32) & _LOW


def halves(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Low and high 32-bit word of a 64-bit integer."""
    return value & _LOW, (value >> 32) & _LOW
