"""Running out of memory halves the batch and changes no row."""

from __future__ import annotations

import logging
import re
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from eager_pair import eager_bundle
from growing import OUT_OF_MEMORY, CrampedEngine, GrowingEngine, SmallCache, long_texts
from support import TableEngine

from spectr_runtime import Completion, Decoder, EngineError, Plan, Request, SamplingParams
from spectr_runtime.contract import Call
from spectr_runtime.errors import is_out_of_memory
from spectr_runtime.reading.prefixes import PrefixStore
from spectr_runtime.speculation.plan import PlanChoice

OpenDecoder = Callable[..., Decoder]
REQUESTS = [Request(str(row), (1, 3, 2), SamplingParams(max_tokens=5 + 3 * row)) for row in range(10)]


class SmallEngine(TableEngine):
    """A table engine with memory for three rows, once it has run a while."""

    def forward(self, call: Call) -> torch.Tensor:
        if len(call.input_ids_BT) > 3 and len(self.calls) > 6:
            raise EngineError(f"PyTorch failed in a call: {OUT_OF_MEMORY}")
        return super().forward(call)


def texts(decoder: Decoder, requests: Sequence[Request] = REQUESTS) -> dict[str, tuple[int, ...]]:
    return {one.id: one.token_ids for one in decoder.generate(requests) if isinstance(one, Completion)}


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("kseq", 2, 3), "auto"], ids=str)
def test_a_batch_that_does_not_fit_is_halved(
    open_decoder: OpenDecoder, plan: PlanChoice, caplog: pytest.LogCaptureFixture
) -> None:
    expected = texts(open_decoder(plan, batch_size=2))
    decoder = open_decoder(plan, batch_size=8)
    for engine in filter(None, (decoder._loop.pair.draft, decoder._loop.pair.target)):
        engine.__class__ = SmallEngine
    with caplog.at_level(logging.WARNING):
        assert texts(decoder) == expected
    assert decoder.batch_size == 2
    assert [record.message for record in caplog.records if "memory" in record.message] == [
        "No memory for 8 rows; going on with 4.",
        "No memory for 4 rows; going on with 2.",
    ]


LONG = long_texts(14)


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("kseq", 2, 3), "auto"], ids=str)
def test_a_cache_that_cannot_grow_gives_up_half_of_its_rows(
    open_decoder: OpenDecoder, plan: PlanChoice, caplog: pytest.LogCaptureFixture
) -> None:
    """Short texts are decoded eight at a time, until the longer ones come."""
    expected = texts(open_decoder(plan, batch_size=1, capacity=400), LONG)
    assert texts(open_decoder(plan, batch_size=8, capacity=400, engine=GrowingEngine), LONG) == expected
    decoder = open_decoder(plan, batch_size=8, capacity=400, engine=CrampedEngine)
    with caplog.at_level(logging.WARNING):
        assert texts(decoder, LONG) == expected
    told = [record.message for record in caplog.records if "memory" in record.message]
    assert told[0] == "No memory for 8 rows; going on with 4."
    assert len(told) == 1 or plan == "auto", "whose plans follow from times, and so do the rows that meet"
    engines = [engine for engine in (decoder._loop.pair.target, decoder._loop.pair.draft) if engine is not None]
    assert all(engine.cache.rows == decoder.batch_size == 8 >> len(told) for engine in engines)
    for store, engine in zip(decoder._loop.pair.reader._prefixes.values(), engines, strict=True):
        assert engine.cache.nbytes <= 2 * 4 * decoder.batch_size * 320
        assert 0 < kept(store) <= engine.cache.nbytes / 4


def test_prefixes_give_their_memory_back_with_the_caches(open_decoder: OpenDecoder) -> None:
    decoder = open_decoder(Plan("kseq", 2, 3), batch_size=8, capacity=400, engine=GrowingEngine)
    texts(decoder, LONG)
    pair = decoder._loop.pair
    before = [kept(store) for store in pair.reader._prefixes.values()]
    pair.restart(4)
    for store, most in zip(pair.reader._prefixes.values(), before, strict=True):
        assert 0 < kept(store) <= pair.target.cache.nbytes / 4 < most


def kept(store: PrefixStore) -> int:
    """The bytes of the prefixes that are kept."""
    return sum(part.nbytes for block in store._blocks.values() for part in block)


def test_prefixes_that_a_cache_cannot_take_halve_the_batch_too(open_decoder: OpenDecoder) -> None:
    """The first row is read alone, and the others have no room for what they are to get of it."""
    asked = [Request(str(row), (1, 3, 2, 4) * 100, SamplingParams(max_tokens=4), row) for row in range(8)]
    quiet = open_decoder(Plan.plain(), batch_size=8, capacity=640, tokens_per_call=640)
    decoder = open_decoder(Plan.plain(), batch_size=8, capacity=640, tokens_per_call=640, engine=CrampedEngine)
    assert texts(decoder, asked) == texts(quiet, asked)
    assert decoder.batch_size == 2


@pytest.mark.parametrize("plan", [Plan.plain(), Plan("race", 2, 2)], ids=str)
def test_models_in_pytorch_write_the_same_where_their_caches_cannot_grow(
    tmp_path: Path, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = eager_bundle(tmp_path)
    asked = [
        Request(str(row), tuple(range(row, 5 * row + 9)), SamplingParams(max_tokens=10 + 4 * row, ignore_eos=True))
        for row in range(10)
    ]
    expected = texts(Decoder(bundle, plan=plan, backend="torch", batch_size=6), asked)
    monkeypatch.setattr("spectr_runtime.engines.buffers.KVCache", SmallCache)
    monkeypatch.setattr(SmallCache, "most", 3 * 192)
    decoder = Decoder(bundle, plan=plan, backend="torch", batch_size=6)
    assert texts(decoder, asked) == expected
    assert decoder.batch_size == 3
    assert decoder._loop.pair.target.cache.rows == 3


def test_one_row_for_which_a_cache_cannot_grow_is_an_error(open_decoder: OpenDecoder) -> None:
    decoder = open_decoder(Plan.plain(), batch_size=1, capacity=2000, engine=CrampedEngine)
    with pytest.raises(EngineError, match="no memory for a cache of 1 rows of 1408 slots"):
        texts(decoder, [Request("long", (1, 3) * 600, SamplingParams(max_tokens=4))])


def test_memory_that_linux_would_grant_and_does_not_have_halves_the_batch(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = texts(open_decoder(Plan.plain(), batch_size=1, capacity=400), LONG)
    decoder = open_decoder(Plan.plain(), batch_size=8, capacity=400, engine=GrowingEngine)
    cache, slot = decoder._loop.pair.target.cache, 2 * 4
    most = 4 * slot * 448 + 4 * slot * 448 // 2  # four rows at their longest, and a piece of them twice
    monkeypatch.setattr("spectr_runtime.contract.cache.free_memory", lambda device: most - cache.nbytes)
    assert texts(decoder, LONG) == expected
    assert decoder.batch_size == cache.rows == 4


def test_one_row_that_linux_has_no_memory_for_is_an_error(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = open_decoder(Plan.plain(), batch_size=2, capacity=2000, engine=GrowingEngine)
    cache = decoder._loop.pair.target.cache
    monkeypatch.setattr("spectr_runtime.contract.cache.free_memory", lambda device: 15_000 - cache.nbytes)
    words = (
        "a cache of 1 rows of 1408 slots: out of memory; 6.66 kB more are needed, and 5.78 kB are free. Use a smaller"
    )
    with pytest.raises(EngineError, match=re.escape(words)):
        texts(decoder, [Request("long", (1, 3) * 600, SamplingParams(max_tokens=4))])


class Shrunk(SmallCache):
    """A cache whose memory another process takes."""

    most = 8 * 64
    temporary: weakref.ref[torch.Tensor]

    def restart(self, rows: int) -> None:
        assert rows == 8 or self.temporary() is None, "what the call took is there while caches are made anew"
        super().restart(rows)


class RobbedEngine(GrowingEngine):
    """A table engine that runs out of memory in a call, after which there is little for its cache too."""

    kind = Shrunk

    def forward(self, call: Call) -> torch.Tensor:
        if len(self.calls) == 6 and self.cache.rows == 8:
            Shrunk.most = 2 * 64
            temporary = torch.empty(8)
            Shrunk.temporary = weakref.ref(temporary)
            raise EngineError(f"PyTorch failed in a call: {OUT_OF_MEMORY}")
        return super().forward(call)


def test_caches_that_cannot_start_over_are_halved_again(
    open_decoder: OpenDecoder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = texts(open_decoder(Plan.plain(), batch_size=1))
    monkeypatch.setattr(Shrunk, "most", Shrunk.most)
    decoder = open_decoder(Plan.plain(), batch_size=8, engine=RobbedEngine)
    with caplog.at_level(logging.WARNING):
        assert texts(decoder) == expected
    assert [record.message for record in caplog.records] == [
        "No memory for 8 rows; going on with 4.",
        "No memory for 4 rows; going on with 2.",
    ]


@pytest.mark.parametrize(
    ("error", "after"),
    [(EngineError(f"No memory: {OUT_OF_MEMORY}"), 0), (KeyboardInterrupt(), 1)],
    ids=["memory", "interrupt"],
)
def test_a_call_after_one_that_failed_while_caches_grew_starts_from_whole_ones(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch, error: BaseException, after: int
) -> None:
    """The lack of memory leaves no piece of the cache, the interrupt two of different lengths."""
    expected = texts(open_decoder(Plan.plain(), batch_size=1, capacity=400))
    decoder = open_decoder(Plan.plain(), batch_size=1, capacity=400, engine=GrowingEngine)
    cache, left = decoder._loop.pair.target.cache, iter(range(after))
    real = cache._allocate

    def allocate(parts: int, slots: int) -> torch.Tensor:
        if next(left, None) is None:
            raise error
        return real(parts, slots)

    with monkeypatch.context() as patched:
        patched.setattr(cache, "_allocate", allocate)
        with pytest.raises(type(error)):
            texts(decoder, LONG)
    assert texts(decoder) == expected
    assert [piece.shape[3] for piece in cache.pieces] == [cache.slots] * 2


def test_caches_get_shorter_where_the_longest_row_has_ended(open_decoder: OpenDecoder) -> None:
    sizes = (("short", 2, 30), ("long", 300, 5))
    asked = [Request(name, (1,) * read, SamplingParams(max_tokens=most, ignore_eos=True)) for name, read, most in sizes]
    decoder = open_decoder(Plan("race", 1, 2), batch_size=2, capacity=400, engine=GrowingEngine)
    assert [one.id for one in decoder.generate(asked)] == ["long", "short"]
    assert [engine.cache.slots for engine in (decoder._loop.pair.draft, decoder._loop.pair.target) if engine] == [
        128,
        128,
    ]


def test_models_that_do_not_fit_are_opened_with_fewer_rows(open_decoder: OpenDecoder) -> None:
    class Picky(TableEngine):
        def __init__(self, *arguments: int, rows: int, **sizes: int) -> None:
            if rows > 2:
                raise EngineError(f"PyTorch cannot hold target with {rows} rows: {OUT_OF_MEMORY}")
            super().__init__(*arguments, rows=rows, **sizes)

    assert open_decoder(Plan("kseq", 2, 2), batch_size=9, engine=Picky, device="cuda").batch_size == 2
    with pytest.raises(EngineError, match="with 9 rows"):
        open_decoder(Plan("kseq", 2, 2), batch_size=9, engine=Picky)


def test_other_errors_and_a_single_row_without_memory_are_raised(open_decoder: OpenDecoder) -> None:
    decoder = open_decoder(Plan.plain(), batch_size=1)
    for message in ("PyTorch failed in a call: an illegal address", OUT_OF_MEMORY):

        def fail(call: Call, message: str = message) -> torch.Tensor:
            raise EngineError(message)

        decoder._loop.pair.target.forward = fail  # type: ignore[method-assign]
        with pytest.raises(EngineError, match=message[:20]):
            texts(decoder)


def test_the_shapes_in_which_memory_runs_out() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError(OUT_OF_MEMORY))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(EngineError("ONNX Runtime failed: Failed to allocate memory for a buffer"))
    # What TensorRT says last of an execution context without room (NVIDIA/TensorRT, issue 3017).
    last = "2: [executionContext.cpp::ExecutionContext::470] Error Code 2: OutOfMemory (no further information)"
    assert is_out_of_memory(EngineError(f"TensorRT has no room to run profile decode: {last}"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
