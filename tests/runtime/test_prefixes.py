"""The store of shared prefixes against a plain dictionary, and who waits for whom."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from support import TableEngine, whole, write_text

from spectr_runtime.contract import KVCache
from spectr_runtime.reading.prefixes import BLOCK, PrefixStore, followers

ROWS, CAPACITY = 4, 128


class TwoLayers(TableEngine):
    """An engine that nobody calls: two layers with three heads of two numbers."""

    def __init__(self) -> None:
        super().__init__(0, rows=ROWS, capacity=CAPACITY)
        self.spec = type(self.spec)("table", 2, 3, 2, 5, CAPACITY)
        self.cache = KVCache(2, ROWS, 3, CAPACITY, 2, dtype=torch.float32, device=torch.device("cpu"))


def values_of(text: Sequence[int]) -> torch.Tensor:
    """What an engine would write for a text [4, 3, tokens, 2]: numbers that depend on all tokens up to each one."""
    sums = torch.tensor(text).cumsum(0) + 1000 * torch.arange(len(text))
    return sums[None, None, :, None] + torch.tensor([1e5, 2e5, 3e5, 4e5])[:, None, None, None] + torch.zeros(4, 3, 1, 2)


def read(store: PrefixStore, row: int, text: Sequence[int]) -> list[bytes]:
    write_text(store._cache, row, values_of(text))
    names = store.names(text)
    store.save(row, names)
    return names


def some_texts(count: int) -> list[tuple[int, ...]]:
    """Texts that begin with parts of each other, of all lengths."""
    chooser, texts = random.Random(5), [(1,) * 50]
    while len(texts) < count:
        base = chooser.choice(texts)
        tail = tuple(chooser.randrange(3) for _ in range(chooser.randrange(60)))
        texts.append((base[: chooser.randrange(len(base) + 1)] + tail)[: CAPACITY - 1])
    return texts


@pytest.mark.parametrize("blocks", [0, 1, 3, 20, 2000])
def test_what_is_loaded_is_what_was_read(blocks: int) -> None:
    """With room for all the store knows what a dictionary of all prefixes knows, and never a wrong value."""
    store, known = PrefixStore(TwoLayers().cache, blocks * BLOCK), set[tuple[int, ...]]()
    kept = 0
    for number, text in enumerate(some_texts(400)):
        names, row = store.names(text), number % ROWS
        write_text(store._cache, row, torch.full((4, 3, CAPACITY, 2), -1.0))
        end = store.load(row, names, 0)
        found = whole(store._cache)[:, row]
        assert torch.equal(found[:, :, : end * BLOCK], values_of(text)[:, :, : end * BLOCK])
        assert (found[:, :, end * BLOCK :] == -1).all()
        wholes = [text[:size] for size in range(BLOCK, len(text) + 1, BLOCK)]
        if blocks == 2000:
            assert end == sum(whole in known for whole in wholes)
        known |= set(wholes)
        read(store, row, text)
        assert len(store._blocks) <= blocks
        assert store.load((row + 1) % ROWS, names, 0) == min(len(wholes), blocks), "what was read last is there"
        kept += end
    assert (kept > 0) == (blocks > 0)


def test_blocks_that_were_not_used_longest_go_and_no_text_loses_its_beginning_first() -> None:
    store = PrefixStore(TwoLayers().cache, 4 * BLOCK)
    one, two, three = (read(store, 0, (token,) * size * BLOCK) for token, size in ((1, 2), (2, 2), (3, 1)))
    assert [store.load(1, names, 0) for names in (two, three)] == [2, 1]
    assert store.load(1, one, 0) == 1
    read(store, 0, (4,) * BLOCK)
    assert [store.load(1, names, 0) for names in (one, two, three)] == [1, 1, 1]


def test_a_part_that_a_row_holds_already_is_left_as_it_is() -> None:
    store = PrefixStore(TwoLayers().cache, 8 * BLOCK)
    names = read(store, 0, (1,) * 3 * BLOCK)
    assert store.load(1, names, 1) == 3
    found = whole(store._cache)[:, 1]
    assert not found[:, :, :BLOCK].any()
    assert torch.equal(found[:, :, BLOCK : 3 * BLOCK], values_of((1,) * 3 * BLOCK)[:, :, BLOCK:])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_values_that_are_not_finite_are_not_handed_on(value: float) -> None:
    store, text = PrefixStore(TwoLayers().cache, 8 * BLOCK), (1,) * 3 * BLOCK
    write_text(store._cache, 0, values_of(text))
    store._cache.parts()[2][0, 1, 20, 1] = value
    store.save(0, store.names(text))
    assert store.load(1, store.names(text), 0) == 0
    assert not store._blocks
    assert store.load(1, read(store, 0, text), 0) == 3


def test_a_row_that_got_a_prefix_keeps_its_slots_until_it_is_read() -> None:
    engine = TwoLayers()
    store = PrefixStore(engine.cache, 8 * BLOCK)
    names = read(store, 0, (1,) * 5 * BLOCK)
    engine.cache.resize(64)
    engine.cache.reach = [10] * ROWS
    assert store.load(2, names, 0) == 5
    assert engine.cache.slots == CAPACITY
    assert engine.cache.reach == [10, 10, 80, 10]


def memory(store: PrefixStore) -> int:
    return sum(part.nbytes for block in store._blocks.values() for part in block)


@pytest.mark.parametrize(("rows", "share"), [(1, 1), (3, 1 / 3), (4, 1 / 4), (8, 1 / 4)])
def test_the_memory_is_a_quarter_of_the_batches_or_one_text(rows: int, share: float) -> None:
    engine = TwoLayers()
    engine.cache.restart(rows)
    store = PrefixStore(engine.cache, None)
    for token in range(20):
        read(store, 0, (token,) * 3 * BLOCK)
        assert memory(store) <= share * engine.cache.nbytes
    assert memory(store) == share * engine.cache.nbytes


def test_memory_is_given_back_where_the_batch_gets_smaller() -> None:
    engine = TwoLayers()
    engine.cache.restart(8)
    store = PrefixStore(engine.cache, None)
    one, two = (read(store, 0, (token,) * CAPACITY) for token in (1, 2))
    assert memory(store) == engine.cache.nbytes / 4
    engine.cache.restart(4)
    store.trim()
    assert memory(store) == engine.cache.nbytes / 4
    assert [store.load(1, names, 0) for names in (one, two)] == [0, CAPACITY // BLOCK], "what was used last stays"


def test_what_there_is_no_memory_for_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    store, real, left = PrefixStore(TwoLayers().cache, None), torch.cat, [2]

    def cat(*arguments: object, **options: object) -> torch.Tensor:
        left[0] -= 1
        if left[0] < 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")
        return real(*arguments, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(torch, "cat", cat)
    names = read(store, 0, (1,) * 5 * BLOCK)
    monkeypatch.setattr(torch, "cat", real)
    assert store.load(1, names, 0) == 2
    assert torch.equal(whole(store._cache)[:, 1, :, : 2 * BLOCK], values_of((1,) * 2 * BLOCK))
    read(store, 0, (1,) * 5 * BLOCK)
    assert store.load(2, names, 0) == 5


def test_rows_that_share_enough_wait_for_the_first_of_them() -> None:
    store = PrefixStore(TwoLayers().cache, 100 * BLOCK)
    base = (1,) * 2 * BLOCK
    texts = [base, (2,) * 40, base + (2,) * 40, base + (2,) * 30, (2,) * 9, (2,) * 40 + (1,), (3,) * 40]
    lacking = {row: store.names(text) for row, text in enumerate(texts)}
    assert followers(lacking, 0) == [2, 3, 5]
    assert followers(lacking, 2 * BLOCK) == [2, 3], "a call costs as much as what row 5 shares"
    assert followers(lacking, 4 * BLOCK) == []
    held = {row: names[2:] for row, names in lacking.items()}
    assert followers(held, 0) == [3], "what is left of two texts is shared too"


def test_rows_are_read_in_stages() -> None:
    """Row 0 reads what all share, row 2 what the rest of them share."""
    engine = TwoLayers()
    store = PrefixStore(engine.cache, 100 * BLOCK)
    base, more = (1,) * 2 * BLOCK, (1,) * 2 * BLOCK + (2,) * BLOCK
    texts = {0: (*base, 4), 1: (*base, 3, 3), 2: (*more, 4), 3: (*more, 3)}
    found, held = [], dict.fromkeys(texts, 0)
    for stage in store.stages(texts, held.__getitem__, 0):
        found.append(stage)
        for row in stage:
            write_text(engine.cache, row, values_of(texts[row]))
            held[row] = len(texts[row])
    assert found == [{0: 0}, {1: 32, 2: 32}, {3: 48}]
    assert list(store.stages(texts, lambda _row: 0, 0)) == [{0: 32, 1: 32, 2: 48, 3: 48}]


def test_rows_go_on_where_another_one_stopped() -> None:
    """Each stage reads two blocks of a row: two rows share one of four blocks, and nothing of it is read twice."""
    engine = TwoLayers()
    store = PrefixStore(engine.cache, 100 * BLOCK)
    base = (1,) * 4 * BLOCK
    texts = {0: (*base, 4), 1: (*base, *(2,) * BLOCK)}
    read, held = [], dict.fromkeys(texts, 0)
    for _ in range(2):
        for stage in store.stages(texts, held.__getitem__, 0):
            for row, begin in stage.items():
                end = min(max(begin, held[row]) + 2 * BLOCK, len(texts[row]))
                read.append((row, max(begin, held[row]), end))
                write_text(engine.cache, row, values_of(texts[row][:end]))
                held[row] = end
    assert read == [(0, 0, 32), (1, 32, 64), (0, 64, 65), (1, 64, 80)]
    for row, text in texts.items():
        assert torch.equal(whole(engine.cache)[:, row, :, : len(text)], values_of(text))


@pytest.mark.parametrize("blocks", [0, 1])
def test_nobody_waits_twice_for_what_is_not_kept(blocks: int) -> None:
    engine = TwoLayers()
    store = PrefixStore(engine.cache, blocks * BLOCK)
    texts = {row: (1 + row % 2,) * 4 * BLOCK for row in range(4)}
    stages, held = [], dict.fromkeys(texts, 0)
    for stage in store.stages(texts, held.__getitem__, 0):
        stages.append(sorted(stage))
        for row in stage:
            write_text(engine.cache, row, values_of(texts[row]))
            held[row] = 4 * BLOCK
    assert stages == ([[0, 1, 2, 3]] if not blocks else [[0, 1], [2, 3]])
