"""What rounds that are replayed are made of: copies, sizes, fixed memory; and what would go wrong without each."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from growing import GrowingEngine
from replayed import TapeRecorder, recorder

from spectr_runtime import Completion, Decoder, Plan, Request, SamplingParams
from spectr_runtime.contract import KVCache
from spectr_runtime.contract.mask import ALIGNMENT
from spectr_runtime.replay import transfer
from spectr_runtime.replay.sizes import padded_count, padded_length, padded_rows
from spectr_runtime.replay.transfer import Download, Parcel, Upload, joined, numbers, split
from spectr_runtime.speculation import launch
from spectr_runtime.speculation.batching import Sizes
from spectr_runtime.speculation.pair import Pair
from spectr_runtime.speculation.state import BatchState

__all__ = ["recorder"]
OpenDecoder = Callable[..., Decoder]
CPU = torch.device("cpu")
WHOLE = [2**63 - 1, -(2**63), -1, 0, 7, -(2**62) - 1]
NUMBERS = [0.1, -0.0, math.inf, -math.inf, 1e300, 5e-324]


def parcel(scale: int = 1) -> Parcel:
    made = Parcel()
    made.integers("whole", WHOLE, 3, 2)
    made.numbers("share", [scale * number for number in NUMBERS], 2, 3)
    made.integers("none", [])
    made.integers("flat", [scale, -scale])
    return made


def test_what_is_sent_arrives_as_it_was() -> None:
    upload = Upload(parcel().layout, CPU)
    address = upload.tensors["whole"].data_ptr()
    for scale in (1, 3):
        upload.send(parcel(scale))
        assert upload.tensors["whole"].tolist() == [WHOLE[:2], WHOLE[2:4], WHOLE[4:]]
        found = numbers(upload.tensors["share"])
        assert found.flatten().tolist() == [scale * number for number in NUMBERS]
        assert math.copysign(1, float(found[0, 1])) == -1
        assert upload.tensors["none"].shape == (0,)
        assert upload.tensors["flat"].tolist() == [scale, -scale]
    assert upload.tensors["whole"].data_ptr() == address


def test_what_comes_back_is_what_was_there_when_it_left() -> None:
    generator = torch.Generator().manual_seed(0)
    single = torch.randn((3, 5), generator=generator)
    single[0, :3] = torch.tensor([math.inf, -math.inf, torch.finfo(torch.float32).tiny / 8])
    tensors = {"single": single, "truth": torch.tensor([True, False]), "whole": torch.tensor(WHOLE), "none": single[:0]}
    words = joined(tensors)
    download = Download(words, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    words.zero_()
    found = download.tensors()
    assert torch.equal(numbers(found["single"]).float(), single)
    assert found["truth"].bool().tolist() == [True, False]
    assert found["whole"].tolist() == WHOLE
    assert found["none"].shape == (0, 5)


def test_a_layout_that_does_not_fit_is_refused() -> None:
    with pytest.raises(AssertionError):
        Parcel().integers("whole", WHOLE, 2, 2)
    with pytest.raises(RuntimeError):
        split(torch.zeros(5, dtype=torch.int64), {"whole": (2, 2)})
    with pytest.raises(RuntimeError):
        Upload({"whole": (5,)}, CPU).send(parcel())


class SlowDevice:
    """Memory of a device that reads later what it is to copy."""

    def __init__(self) -> None:
        self.sides: list[torch.Tensor] = []

    def copy_(self, side: torch.Tensor, *, non_blocking: bool) -> None:
        assert non_blocking
        self.sides.append(side)


@pytest.mark.parametrize("sides", [2, 1])
def test_the_host_does_not_write_what_the_device_has_yet_to_read(monkeypatch: pytest.MonkeyPatch, sides: int) -> None:
    """Two parcels may be on their way; with a single side, the first one would be lost."""
    monkeypatch.setattr(transfer, "SIDES", sides)
    upload, device = Upload(parcel().layout, CPU), SlowDevice()
    upload._words = device  # type: ignore[assignment]
    for scale in (1, 2):
        upload.send(parcel(scale))
    kept = [side.tolist() == parcel(scale).words.tolist() for scale, side in enumerate(device.sides, start=1)]
    assert kept == [sides == 2, True]


@pytest.mark.parametrize("most", [1, 5, 8, 60, 256])
def test_rows_are_padded_to_few_sizes(most: int) -> None:
    sizes = [padded_rows(rows, most) for rows in range(1, most + 1)]
    assert sizes == sorted(sizes)
    assert all(rows <= size <= min(most, max(rows / 0.66, rows)) for rows, size in enumerate(sizes, start=1))
    assert len({*sizes}) <= 6 + -(-most // 8)
    counts = [padded_count(rows, most) for rows in range(most + 1)]
    assert counts == sorted(counts)
    assert all(rows <= count <= 2 * rows for rows, count in enumerate(counts))
    assert len({*counts}) <= most.bit_length() + 2


@pytest.mark.parametrize("most", [48, 64, 1000, 4096, 131_072])
def test_lengths_are_padded_to_few_sizes(most: int) -> None:
    sizes = [padded_length(length, most) for length in range(1, most + 1)]
    assert sizes == sorted(sizes)
    assert all(
        length <= size <= min(most, max(1.25 * length, length + 63)) for length, size in enumerate(sizes, start=1)
    )
    assert len({*sizes}) <= 4 * most.bit_length()


def cache(rows: int = 4, capacity: int = 512) -> KVCache:
    return KVCache(1, rows, 1, capacity, 1, dtype=torch.float32, device=CPU, grows=True)


def test_a_cache_moves_only_where_a_round_needs_more_or_much_less() -> None:
    held = cache()
    held.hold_round(2, 300)
    assert held.slots >= 300
    before = held.generation
    for slots in (300, 250, 256, 200, held.slots):
        held.hold_round(2, slots)
        assert held.generation == before
    held.hold_round(2, 100)
    assert held.generation > before
    assert held.slots == 128


def test_a_round_of_some_rows_leaves_the_others_their_texts() -> None:
    held = cache()
    held.hold(3, 1, 300)
    held.parts()[0][3, 0, :300, 0] = torch.arange(300.0)
    held.hold_round(2, 64)
    assert held.slots >= 300
    assert held.parts()[0][3, 0, :300, 0].tolist() == [*range(300)]
    held.hold_round(4, 64)
    assert held.slots == 128


def test_a_round_needs_no_more_than_the_capacity() -> None:
    held = cache(capacity=100)
    held.hold_round(4, 192)
    assert held.slots == 100
    assert held.reach == [100] * 4


PLANS = [Plan.plain(), Plan("single", 1, 1), Plan("kseq", 3, 4), Plan("race", 5, 12), Plan("race", 2, 3, "texts")]
REQUESTS = [
    Request(str(row), (1 + row % 4, 2) * (1 + 13 * row), SamplingParams(max_tokens=25, ignore_eos=True))
    for row in range(7)
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_the_calls_of_a_round_stay_within_the_slots_that_are_held_for_it(
    open_decoder: OpenDecoder, recorder: TapeRecorder, monkeypatch: pytest.MonkeyPatch, plan: Plan
) -> None:
    slots, hold, speculate = [0], Pair.hold, launch.speculate
    decoder = open_decoder(plan, batch_size=2, capacity=300, engine=GrowingEngine)
    engines: list[Any] = [
        engine for engine in (decoder._loop.pair.draft, decoder._loop.pair.target) if engine is not None
    ]

    def held(pair: Pair, rows: int, most: int) -> tuple[int, ...]:
        slots.append(most)
        return hold(pair, rows, most)

    def checked(*arguments: Any) -> Any:
        before = [(engine.cache.generation, len(engine.calls)) for engine in engines]
        emitted = speculate(*arguments)
        for engine, (generation, calls) in zip(engines, before, strict=True):
            assert engine.cache.generation == generation
            for call in engine.calls[calls:]:
                length = call.attention_mask_B1TL.shape[-1]
                assert length <= slots[-1]
                assert length % ALIGNMENT == 0 or length == engine.cache.capacity
        return emitted

    monkeypatch.setattr(Pair, "hold", held)
    monkeypatch.setattr(launch, "speculate", checked)
    assert len([*decoder.generate(REQUESTS)]) == 7
    assert len({*slots}) > 3


def texts(decoder: Decoder) -> list[tuple[int, ...]]:
    """Texts of rows that are all greedy, and of rows of which none is."""
    asked = [
        Request(str(row), (1, 3, 2), SamplingParams(max_tokens=9, temperature=float(row > 4), ignore_eos=True))
        for row in range(9)
    ]
    return [one.token_ids for one in decoder.generate(asked) if isinstance(one, Completion)]


class Mistaken(TapeRecorder):
    """Replays the first of all recordings."""

    first: Callable[[], torch.Tensor] | None = None

    def record(self, work: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        self.first = self.first or super().record(work)
        return self.first


@pytest.mark.parametrize("kind", [TapeRecorder, Mistaken])
def test_the_recording_of_another_shape_is_noticed(
    open_decoder: OpenDecoder, monkeypatch: pytest.MonkeyPatch, kind: type[TapeRecorder]
) -> None:
    expected = texts(open_decoder(Plan("race", 1, 2), batch_size=1))
    monkeypatch.setattr("spectr_runtime.speculation.turn.open_recorder", lambda *_: kind())
    assert (texts(open_decoder(Plan("race", 1, 2), batch_size=1)) == expected) == (kind is TapeRecorder)


@pytest.mark.parametrize("name", ["_length_R", "_last_R2"])
def test_a_state_that_does_not_keep_what_was_written_is_noticed(
    open_decoder: OpenDecoder, recorder: TapeRecorder, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    expected = texts(open_decoder(Plan("race", 1, 2), batch_size=2, replays=False))
    assert texts(open_decoder(Plan("race", 1, 2), batch_size=2)) == expected
    keep = BatchState.keep

    def forgetful(state: BatchState, *arguments: Any) -> None:
        kept = getattr(state, name).clone()
        keep(state, *arguments)
        getattr(state, name).copy_(kept)

    monkeypatch.setattr(BatchState, "keep", forgetful)
    assert texts(open_decoder(Plan("race", 1, 2), batch_size=2)) != expected


def test_how_many_probable_tokens_are_looked_for_does_not_depend_on_other_rows() -> None:
    """Of equal ones ``topk`` finds others for another number."""
    assert [Sizes(4, 64).most_scored(wanted) for wanted in ([], [None], [0, None], [3, 5])] == [0, 0, 0, 5]
    for sizes in (Sizes(4, 64, padded=True), Sizes(4, 64, call_tokens=5)):
        assert [sizes.most_scored(wanted) for wanted in ([None], [0], [3, None], [20])] == [0, 20, 20, 20]
