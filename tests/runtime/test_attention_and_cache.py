"""Masks and cache compaction."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from spectr_runtime.contract import KVCache
from spectr_runtime.contract.mask import aligned, block_mask, triangle
from spectr_select import DraftTree

CPU = torch.device("cpu")


def test_lengths_are_aligned_upwards() -> None:
    assert [aligned(length) for length in (1, 64, 65)] == [64, 64, 128]


def test_plain_text_sees_its_prefix_and_itself() -> None:
    mask = block_mask(torch.tensor([0, 2]), triangle(2, CPU), 6)
    assert mask.shape == (2, 1, 2, 6)
    assert mask[0, 0].int().tolist() == [[1, 0, 0, 0, 0, 0], [1, 1, 0, 0, 0, 0]]
    assert mask[1, 0].int().tolist() == [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0]]


def test_a_node_sees_its_prefix_ancestors_and_itself() -> None:
    tree = DraftTree.paths(2, 2)  # 0 - 1 - 3 and 0 - 2 - 4
    mask = block_mask(torch.tensor([1]), tree.ancestors(CPU), 7)[0, 0].int().tolist()
    assert mask == [
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 0, 1, 0],
    ]


def test_keep_moves_accepted_slots_behind_the_root_and_nothing_else() -> None:
    cache = KVCache(2, 3, 2, 12, 4, dtype=torch.float32, device=CPU)
    cache.buffer.copy_(torch.randn(cache.buffer.shape, generator=torch.Generator().manual_seed(0)))
    before = cache.buffer.clone()
    cache.keep(torch.tensor([2, 5]), torch.tensor([[2, 4, -1], [-1, -1, -1]]))
    expected = before.clone()
    expected[:, 0, :, 3] = before[:, 0, :, 4]
    expected[:, 0, :, 4] = before[:, 0, :, 6]
    assert torch.equal(cache.buffer, expected)


def test_overlapping_moves_read_before_they_write() -> None:
    cache = KVCache(1, 1, 1, 8, 1, dtype=torch.float32, device=CPU)
    cache.buffer[:, 0, 0, :, 0] = torch.arange(8.0)
    cache.keep(torch.tensor([0]), torch.tensor([[2, 3, 6]]))
    assert cache.key(0)[0, 0, :, 0].tolist() == [0, 2, 3, 6, 4, 5, 6, 7]


def test_a_cache_that_gets_more_slots_or_fewer_keeps_the_first_ones() -> None:
    cache = KVCache(2, 3, 2, 12, 4, dtype=torch.float32, device=CPU)
    cache.buffer.copy_(torch.randn(cache.buffer.shape, generator=torch.Generator().manual_seed(0)))
    before, memory = cache.buffer.clone(), cache.nbytes
    for slots in (5, 9, 12):
        cache.resize(slots)
        assert (cache.slots, cache.capacity, cache.nbytes) == (slots, 12, memory)
        assert torch.equal(cache.buffer[:, :, :, :5], before[:, :, :, :5])
        assert not cache.buffer[:, :, :, 5:].any(), "what was cut off is gone, not somewhere among the new slots"
        assert all(cache.key(layer).is_contiguous() for layer in range(2))


def test_a_cache_gets_the_slots_that_accepted_leaves_would_have() -> None:
    """The draft is not fed the leaves of a tree, so nothing made room for them before."""
    cache = KVCache(1, 2, 1, 100, 1, dtype=torch.float32, device=CPU)
    cache.resize(64)
    cache.buffer[:, :, 0, :, 0] = torch.arange(64.0)
    cache.keep(torch.tensor([58, 3]), torch.tensor([[2, 4], [-1, -1]]))
    assert cache.slots == 64
    assert cache.key(0)[0, 0, 58:, 0].tolist() == [58, 60, 62, 61, 62, 63]
    cache.keep(torch.tensor([60, 3]), torch.tensor([[2, 4], [-1, -1]]))
    assert cache.slots == 100
    assert cache.key(0)[0, 0, 60:63, 0].tolist() == [62, 62, 0]
    assert cache.key(0)[1, 0, :64, 0].tolist() == list(range(64)), "the other row is as it was"


def test_layers_are_contiguous_views_of_one_buffer() -> None:
    cache = KVCache(2, 3, 2, 12, 4, dtype=torch.float32, device=CPU)
    for layer in range(2):
        for view in (cache.key(layer), cache.value(layer)):
            assert view.is_contiguous()
            assert view[1:].untyped_storage().data_ptr() == cache.buffer.untyped_storage().data_ptr()


def test_a_cache_takes_memory_as_its_slots_need_it() -> None:
    before = resident()
    cache = KVCache(2, 2, 4, 1 << 16, 32, dtype=torch.float32, device=CPU, slots=64)
    assert cache.nbytes == 2**28
    assert cache.slots == 64
    assert not cache.buffer.any()
    assert resident() - before < 2**25
    cache.resize(1 << 12)
    assert not cache.buffer.any()
    assert resident() - before < 2**26


def test_a_row_that_moves_takes_its_slots_along() -> None:
    cache = KVCache(1, 3, 2, 8, 2, dtype=torch.float32, device=CPU)
    cache.buffer.copy_(torch.randn(cache.buffer.shape, generator=torch.Generator().manual_seed(0)))
    cache.reach[2] = 5
    before = cache.buffer.clone()
    cache.move(2, 0, 5)
    assert torch.equal(cache.buffer[:, 0, :, :5], before[:, 2, :, :5])
    assert torch.equal(cache.buffer[:, 0, :, 5:], before[:, 0, :, 5:])
    assert torch.equal(cache.buffer[:, 1:], before[:, 1:])
    assert cache.reach == [5, 0, 0]


def resident() -> int:
    """The bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
