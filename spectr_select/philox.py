"""Philox 4x32-10, a counter-based random number generator (Salmon et al., SC 2011), in integer tensor operations."""

from __future__ import annotations

import torch

from spectr_select.constants import constant

_LOW = 0xFFFFFFFF
_ROUNDS = 10
_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)

Words = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def philox(counter: Words, key: tuple[torch.Tensor, torch.Tensor]) -> Words:
    """Return four random 32-bit words for every counter.

    Each of the ten rounds of Philox multiplies the first and the third word of the state, and each product yields two
    words of the next state. Both products are computed at once, as a pair, and the rounds reuse two buffers by turns.

    Args:
        counter: Four words, int64 tensors of values in [0, 2^32) whose shapes broadcast.
        key: Two words of the same kind.

    Returns:
        Four words, int64 tensors of values in [0, 2^32).
    """
    shape = (counter[0] | counter[1] | counter[2] | counter[3]).shape
    first, second, third, fourth = (word.expand(shape) for word in counter)
    pair, before = torch.stack((first, third)), torch.stack((second, fourth))
    multipliers, weyl = (table.reshape(*table.shape, *(1,) * first.ndim) for table in _tables(first.device))
    even, odd = torch.stack((key[1], key[0])), torch.stack((key[0], key[1]))
    keys = (torch.stack((even, odd) * (_ROUNDS // 2)) + weyl) & _LOW
    product = torch.empty_like(pair)
    for turn in range(_ROUNDS):
        torch.mul(pair, multipliers[turn % 2], out=product)
        torch.bitwise_right_shift(product, 32, out=pair)
        # A product of two words may wrap to a negative int64, so the shift fills its high half with ones; and of the
        # product before only the low half belongs to the state. The mask below clears both high halves.
        pair[0].bitwise_xor_(before[1])
        pair[1].bitwise_xor_(before[0])
        pair.bitwise_xor_(keys[turn]).bitwise_and_(_LOW)
        before, product = product, before
    before.bitwise_and_(_LOW)
    return pair[0], before[0], pair[1], before[1]


@constant(8)
def _tables(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the pair's multipliers in even and odd rounds [2, 2], and what each round adds to its keys [10, 2]."""
    first, second = _MULTIPLIERS
    multipliers = torch.tensor([[first, second], [second, first]], device=device)
    weyl = [[turn * _WEYL[1 - turn % 2], turn * _WEYL[turn % 2]] for turn in range(_ROUNDS)]
    return multipliers, torch.tensor(weyl, device=device)


def halves(value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the low and the high 32-bit word of a 64-bit integer."""
    return value & _LOW, (value >> 32) & _LOW
