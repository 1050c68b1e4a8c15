"""Masks and cache compaction."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from support import fill, whole

from spectr_runtime import EngineError
from spectr_runtime.contract import KVCache
from spectr_runtime.contract.cache import PIECES, slots_for
from spectr_runtime.contract.mask import aligned, block_mask, triangle
from spectr_runtime.errors import is_out_of_memory
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


Allocate = Callable[..., torch.Tensor]


def cache_of(layers: int, rows: int, heads: int, capacity: int, size: int, *, grows: bool = False) -> KVCache:
    return KVCache(layers, rows, heads, capacity, size, dtype=torch.float32, device=CPU, grows=grows)


def test_keep_moves_accepted_slots_behind_the_root_and_nothing_else() -> None:
    cache = cache_of(2, 3, 2, 12, 4)
    before = fill(cache)
    cache.keep(torch.tensor([2, 5]), torch.tensor([[2, 4, -1], [-1, -1, -1]]), 10)
    expected = before.clone()
    expected[:, 0, :, 3] = before[:, 0, :, 4]
    expected[:, 0, :, 4] = before[:, 0, :, 6]
    assert torch.equal(whole(cache), expected)


def test_overlapping_moves_read_before_they_write() -> None:
    cache = cache_of(1, 1, 1, 8, 1)
    keys = cache.parts()[0][0, 0, :, 0]
    keys.copy_(torch.arange(8.0))
    cache.keep(torch.tensor([0]), torch.tensor([[2, 3, 6]]), 7)
    assert keys.tolist() == [0, 2, 3, 6, 4, 5, 6, 7]


@pytest.mark.parametrize("layers", [1, 2, 9])
def test_a_cache_that_gets_more_slots_or_fewer_keeps_the_first_ones(layers: int) -> None:
    cache = cache_of(layers, 3, 2, 12, 4)
    before = fill(cache)
    for slots in (5, 9, 12):
        generation = cache.generation
        cache.resize(slots)
        assert (cache.slots, cache.capacity, cache.nbytes) == (slots, 12, 2 * layers * 3 * 2 * slots * 4 * 4)
        assert cache.generation > generation, "no address is left from before"
        assert torch.equal(whole(cache)[:, :, :, :5], before[:, :, :, :5])
        assert not whole(cache)[:, :, :, 5:].any(), "what was cut off is gone, not somewhere among the new slots"


def test_a_cache_gets_the_slots_that_accepted_leaves_would_have() -> None:
    """The draft is not fed the leaves of a tree, so nothing made room for them before."""
    cache = cache_of(1, 2, 1, 100, 1, grows=True)
    cache.pieces[0][0, :, 0, :, 0] = torch.arange(64.0)
    cache.keep(torch.tensor([58, 3]), torch.tensor([[2, 4], [-1, -1]]), 63)
    assert cache.slots == 64
    assert cache.parts()[0][0, 0, 58:, 0].tolist() == [58, 60, 62, 61, 62, 63]
    cache.keep(torch.tensor([60, 3]), torch.tensor([[2, 4], [-1, -1]]), 65)
    assert cache.slots == 100
    assert cache.parts()[0][0, 0, 60:63, 0].tolist() == [62, 62, 0]
    assert cache.parts()[0][1, 0, :64, 0].tolist() == list(range(64)), "the other row is as it was"


@pytest.mark.parametrize("layers", [1, 2, 5, 30])
def test_parts_are_contiguous_views_of_a_few_pieces(layers: int) -> None:
    cache = cache_of(layers, 3, 2, 12, 4)
    before = fill(cache)
    assert len(cache.pieces) <= PIECES
    assert max(map(len, cache.pieces)) == -(-2 * layers // PIECES)
    storages = {piece.untyped_storage().data_ptr() for piece in cache.pieces}
    for number, (part, some) in enumerate(zip(cache.parts(), cache.parts(1, 2), strict=True)):
        assert part.is_contiguous()
        assert some.is_contiguous()
        assert some.untyped_storage().data_ptr() in storages
        assert torch.equal(part, before[number])
        assert torch.equal(some, before[number, 1:])


def test_a_cache_is_as_long_as_its_longest_row_needs() -> None:
    cache = cache_of(2, 4, 1, 1000, 1, grows=True)
    lengths = [(0, 2, 64), (0, 2, 128), (2, 2, 400), (0, 4, 420), (0, 2, 64), (2, 1, 64), (3, 1, 128), (0, 1, 990)]
    slots = []
    for first_row, rows, length in lengths:
        cache.hold(first_row, rows, length)
        slots.append(cache.slots)
    assert slots == [64, 192, 512, 512, 512, 512, 512, 1000]
    for rows, length in ((1, 64), (4, 512), (3, 64), (4, 128), (2, 2000)):  # what a round needs; other rows keep theirs
        cache.hold_round(rows, length)
        slots.append(cache.slots)
    assert slots[8:] == [1000, 1000, 1000, 192, 1000]
    assert [slots_for(needed, 1000) for needed in (1, 56, 64, 512, 950)] == [64, 64, 128, 576, 1000]


def test_memory_is_taken_as_slots_need_it_and_hardly_more_while_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every piece is given up before the next one is copied: seven of eight layers are there once."""
    cache = cache_of(8, 2, 4, 1 << 16, 32, grows=True)
    assert cache.nbytes == 16 * 2 * 4 * 64 * 32 * 4
    assert not whole(cache).any()
    taken, slot = [], cache.nbytes // 64
    real = torch.empty

    def empty(sizes: Sequence[int], **options: object) -> torch.Tensor:
        new = real(sizes, **options)  # type: ignore[call-overload]
        taken.append(cache.nbytes + new.nbytes)
        return new  # type: ignore[no-any-return]

    monkeypatch.setattr(torch, "empty", empty)
    cache.hold(0, 2, 512)
    assert (cache.slots, cache.nbytes) == (576, 576 * slot)
    assert max(taken) == (576 + 64 // 8) * slot
    taken.clear()
    cache.hold_round(2, 64)
    assert cache.slots == 128
    assert max(taken) == (576 + 128 // 8) * slot


@pytest.mark.parametrize("missing", [0, 1])
def test_a_cache_on_a_cpu_grows_into_free_memory_alone(monkeypatch: pytest.MonkeyPatch, missing: int) -> None:
    """Linux would grant more. It is asked where memory is taken, and in no other call."""
    cache = cache_of(8, 2, 4, 1 << 16, 32, grows=True)
    asked, slot = list[str](), cache.nbytes // 64

    def free_memory(device: str) -> int:
        asked.append(device)
        return (576 - 64 + 64 // 8) * slot - missing

    monkeypatch.setattr("spectr_runtime.contract.cache.free_memory", free_memory)
    cache.hold(0, 2, 64)
    assert asked == []
    if missing:
        with pytest.raises(EngineError, match=r"of 576 slots: out of memory; 8\.52 MB more are needed") as caught:
            cache.hold(0, 2, 512)
        assert is_out_of_memory(caught.value)
        assert cache.nbytes == 0
        return
    for slots in (512, 500, 64):
        cache.hold_round(2, slots)
    assert (asked, cache.slots) == (["cpu"], 128)


def test_where_free_memory_is_unknown_a_cache_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spectr_runtime.contract.cache.free_memory", lambda device: None)
    cache = cache_of(1, 2, 1, 1000, 1, grows=True)
    cache.hold(0, 2, 512)
    assert cache.slots == 576


def too_little(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let PyTorch have memory for at most so many numbers of a tensor."""
    real = torch.empty

    def empty(sizes: Sequence[int], **options: object) -> torch.Tensor:
        if torch.Size(sizes).numel() > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
        return real(sizes, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "empty", empty)


def test_without_memory_to_grow_all_is_given_up_and_fewer_rows_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    cache = cache_of(2, 6, 1, 1000, 1, grows=True)
    cache.hold(4, 1, 64)
    fill(cache)
    too_little(monkeypatch, 3 * 200)
    with pytest.raises(EngineError, match="no memory for a cache of 6 rows of 192 slots: CUDA out of memory"):
        cache.hold(0, 2, 128)
    assert cache.nbytes == 0
    cache.restart(3)
    assert (cache.rows, cache.slots, cache.reach) == (3, 64, [0] * 3)
    assert not whole(cache).any()
    cache.hold(0, 2, 128)
    assert whole(cache).shape == (4, 3, 1, 192, 1)


def test_memory_that_was_given_up_is_not_kept_from_other_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch keeps memory of a GPU for itself, until it is told to let it go."""
    given, real = list[int](), torch.empty
    monkeypatch.setattr(torch, "empty", lambda sizes, **options: real(sizes, dtype=options["dtype"]))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: given.append(cache.nbytes))
    cache = cache_of(1, 2, 1, 1000, 1)
    monkeypatch.setattr(cache, "device", torch.device("cuda"))
    cache.resize(500)
    cache.restart(1)
    assert given == [2 * 2 * 500 * 4, 0]


def test_a_cache_that_has_grown_within_a_call_can_be_written_to_outside_of_it() -> None:
    cache = cache_of(1, 2, 1, 1000, 1, grows=True)
    with torch.inference_mode():
        cache.hold(0, 2, 200)
    fill(cache)
    with torch.inference_mode():
        cache.restart(2)
    fill(cache)


def test_a_row_that_moves_takes_its_slots_along() -> None:
    cache = cache_of(2, 3, 2, 8, 2)
    before = fill(cache)
    cache.reach[2] = 5
    cache.move(2, 0, 5)
    found = whole(cache)
    assert torch.equal(found[:, 0, :, :5], before[:, 2, :, :5])
    assert torch.equal(found[:, 0, :, 5:], before[:, 0, :, 5:])
    assert torch.equal(found[:, 1:], before[:, 1:])
    assert cache.reach == [5, 0, 0]
